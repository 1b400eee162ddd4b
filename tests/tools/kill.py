"""Kill -9 what writes files, at random moments, and look at what is left.

    python tests/tools/kill.py --times 300

Each time a process that replaces an old file by a new one is killed after a random while. Then the
file must be the whole old one or the whole new one, to the byte, and the next run must succeed.
"""

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import SMALL, random_model

import taesd_jax
from taesd_jax import cli

# How often each is killed, of 30 times in all: those that compute take longer.
JOBS = {"save": 12, "convert": 6, "encode": 4, "decode": 4, "roundtrip": 2, "fit-thumbnails": 2}
SUFFIXES = {"decode": ".npy", "encode": ".npz", "roundtrip": ".png"}


class Job:
    """Something that writes `target`.

    Args:
        name: One of `JOBS`.
        folder: To work in.
    """

    def __init__(self, name, folder):
        self.name, self.folder = name, Path(folder)
        self.models = [random_model(SMALL, seed) for seed in (0, 1)]
        self.target = self.folder / f"result{SUFFIXES.get(name, '.safetensors')}"
        self.sources = [self.folder / f"source-{i}.safetensors" for i in (0, 1)]
        for path, model in zip(self.sources, self.models, strict=True):
            taesd_jax.save(path, *model, format="flax")
        rng = np.random.default_rng(0)
        self.latents = [self.folder / f"latent-{i}.npy" for i in (0, 1)]
        for path in self.latents:
            np.save(path, rng.standard_normal((1, 96, 8, 4)).astype("f4"))
        self.image = self.folder / "image.png"
        taesd_jax.write_image(self.image, rng.uniform(-1, 1, (320, 320, 3)).astype("f4"))

    def write(self, which):
        """Write the old (0) or the new (1) state of the target."""
        if self.name == "save":
            taesd_jax.save(self.target, *self.models[which], format="flax")
            return
        source, target = str(self.sources[which]), str(self.target)
        arguments = {
            "convert": ["convert", source, target],
            "decode": ["decode", str(self.latents[which]), "--model", source, "-o", target],
        }.get(self.name, [self.name, str(self.image), "--model", source, "-o", target])
        if self.name == "fit-thumbnails":
            # An entry beside the old one, or in its place.
            arguments += ["--name", f"entry-{which}", "--side", "320"]
        else:
            arguments.append("--overwrite")
        if status := cli.main(arguments):
            raise RuntimeError(f"{arguments} ended with {status}")

    def states(self):
        """Return the target's bytes after the old and the new write, and seconds of a write."""
        found, seconds = [], 0.0
        for which in (0, 1, 1):
            start = time.perf_counter()
            if self.in_child(lambda which=which: self.write(which)):
                sys.exit(f"{self.name}: a process failed by itself")
            seconds = time.perf_counter() - start  # the last one finds its programs compiled
            found.append(self.target.read_bytes())
        if found[1] != found[2]:
            sys.exit(f"{self.name}: two runs wrote different files")
        return found[0], found[1], seconds

    def in_child(self, work, *, life=None):
        """Run in a process of its own, killed after `life` seconds; return its exit status."""
        child = os.fork()
        if child == 0:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            try:
                work()
            except BaseException as error:
                os.write(2, f"{self.name}: {error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        if life is not None:
            time.sleep(life)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def kill_often(self, times, seed):
        """Return how often the old and the new file were left."""
        old, new, seconds = self.states()
        seen = collections.Counter()
        rng = random.Random(seed)
        for _ in range(times):
            self.target.write_bytes(old)
            if self.name == "save":
                # Again and again, so that it is always writing when it is killed.
                work = lambda: [self.write(1) or self.write(0) for _ in range(10**6)]  # noqa: E731
            else:
                work = lambda: self.write(1)  # noqa: E731
            status = self.in_child(work, life=rng.uniform(0, 1.3 * seconds))
            seen["killed"] += status == -signal.SIGKILL
            if status not in (0, -signal.SIGKILL):
                sys.exit(f"{self.name}: a process failed by itself")
            left = self.target.read_bytes()
            if left not in (old, new):
                sys.exit(f"{self.name}: what is left is neither the old nor the new file")
            seen["new" if left == new else "old"] += 1
        if self.in_child(lambda: self.write(1)) != 0 or self.target.read_bytes() != new:
            sys.exit(f"{self.name}: the next run failed")
        return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=30, help="kills in all")
    parser.add_argument("--jobs", nargs="+", choices=tuple(JOBS), default=list(JOBS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=r"(?s).*fork")
    share = args.times / sum(JOBS[name] for name in args.jobs)
    for name in args.jobs:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = folder + "/programs"
            times = max(round(JOBS[name] * share), 1)
            seen = Job(name, folder).kill_often(times, args.seed)
        print(
            f"{name}: {times} runs, {seen['killed']} of them killed, left old {seen['old']}, new "
            f"{seen['new']}, no other"
        )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    main()

"""Kill -9 `encode-dataset` at random moments, run the same command again, and compare the bytes.

    python tests/tools/kill_dataset.py --times 200

A run that nothing disturbs gives what is expected. Then the command is killed after a random while,
again and again: each time whatever is finished must be whole, and stay as it is. When a run comes
to its end, the data set must have the expected bytes; the next one begins anew.
"""

import argparse
import collections
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import SHORT, random_model
from PIL import Image

import taesd_jax
import taesd_jax.cli.datasets  # here, and not in each process
from taesd_jax import cli
from taesd_jax.datasets.formats import FORMATS
from taesd_jax.datasets.manifest import digest_file, read_report

# The work of one run, in shards of a few inputs: kills meet all its parts.
INPUTS, SHARD, SIDE = 90, 6, 32


def write_source(folder):
    """Write small pictures, some of them broken."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(INPUTS):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, (*rng.integers(20, 90, 2), 3)).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG" if i % 2 else "PNG")
        content = buffer.getvalue()[: 100 if i % 13 == 0 else None]
        (folder / f"{i:03}.{'jpg' if i % 2 else 'png'}").write_bytes(content)


def run(folder, target, format, *, life=None):
    """Run the command in a process of its own, killed after `life` seconds; return its status."""
    words = ["encode-dataset", str(folder / "source"), str(target), "--size", str(SIDE)]
    words += ["--model", str(folder / "model.safetensors"), "--buckets", "--flip"]
    words += ["--shard-images", str(SHARD), "--workers", "2", "--format", format]
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        try:
            os._exit(cli.main(words))
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    if life is not None:
        time.sleep(life)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def contents(target):
    """Return the bytes of every file, but the reports, which tell how long the work took."""
    return {p.name: p.read_bytes() for p in target.iterdir() if not p.match("shard-*.json")}


def finished(target, format):
    """Return the finished shards by name, with their times; exit if one is damaged."""
    suffix = FORMATS[format].suffix
    times = {}
    for path in sorted(target.glob(f"shard-*{suffix}")):
        if report := read_report(path):
            if digest_file(path) != report.sha256:
                sys.exit(f"{path.name} is not what its report says")
            times[path] = path.stat().st_mtime_ns
    return times


def kill_often(folder, times, format, seed):
    """Return how often the command was killed, and what was finished then."""
    expected, target = folder / "expected", folder / "target"
    for _ in range(2):  # the second one finds its programs compiled
        shutil.rmtree(expected, ignore_errors=True)
        start = time.perf_counter()
        if run(folder, expected, format):
            sys.exit("an undisturbed run failed")
        seconds = time.perf_counter() - start
    wanted, seen, rng = contents(expected), collections.Counter(), random.Random(seed)
    while seen["killed"] < times or target.exists():
        before = finished(target, format) if target.exists() else {}
        life = rng.uniform(0, 0.9 * seconds) if seen["killed"] < times else None
        status = run(folder, target, format, life=life)
        seen["killed"] += status == -signal.SIGKILL
        if status not in (0, -signal.SIGKILL):
            sys.exit(f"a run failed by itself, with status {status}")
        after = finished(target, format) if target.exists() else {}
        if not before.items() <= after.items():
            sys.exit("a finished shard was touched")
        seen["shards"] += len(after) - len(before)
        if status == 0 or (target / "manifest.json").exists():
            seen["temporary"] += sum(name.endswith(".tmp") for name in contents(target))
            if {k: v for k, v in contents(target).items() if not k.endswith(".tmp")} != wanted:
                sys.exit("the data set differs from that of an undisturbed run")
            seen["finished"] += 1
            shutil.rmtree(target)
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=30, help="kills of each format")
    parser.add_argument("--formats", nargs="+", default=["parquet"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=r"(?s).*fork")
    for format in args.formats:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["JAX_COMPILATION_CACHE_DIR"] = name + "/programs"
            write_source(folder / "source")
            params, config = random_model(SHORT)
            taesd_jax.save(folder / "model.safetensors", params, config, format="flax")
            seen = kill_often(folder, args.times, format, args.seed)
        print(
            f"{format}: {seen['killed']} kills, {seen['shards']} shards made, {seen['finished']} "
            f"data sets finished with the expected bytes, {seen['temporary']} files left over",
            flush=True,
        )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    main()

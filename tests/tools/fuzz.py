"""Fuzz the readers of checkpoints, configs and latents, guided by coverage, for a bounded time.

    python tests/tools/fuzz.py --seconds 600

It needs atheris. The corpus starts with whole and mutated files of each kind; an input that gives
anything but a whole model or latent, or the error for a bad file, is kept, and is the end of the
run.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

KINDS = ("weights", "config", "latent")
LATENT_SUFFIXES = (".npy", ".npz", ".safetensors", ".png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        fuzz(*args.child, args.seconds)
        return
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            seeds = seed(kind, Path(folder) / "corpus")
            command = [sys.executable, __file__, "--child", kind, folder]
            command += ["--seconds", str(max(args.seconds // len(KINDS), 1))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                kept = Path(f"fuzz-{kind}.txt")
                kept.write_text(done.stdout + done.stderr)
                sys.exit(
                    f"{kind}: a fault; the report is in {kept}, the input in fuzz-{kind}-*\n"
                    f"{done.stderr[-3000:]}"
                )
            corpus = [path.stat().st_size for path in (Path(folder) / "corpus").iterdir()]
            tried = [line.split()[0] for line in done.stderr.split("\n") if "DONE" in line]
            print(
                f"{kind}: {tried[0][1:]} inputs tried, from {seeds} to {len(corpus)} in the corpus "
                f"({sum(corpus):,} bytes), no fault"
            )


def seed(kind, folder):
    """Write the corpus to start with; return how many files it has."""
    import numpy as np
    from hostile import MUTATIONS
    from models import SMALL, random_model, random_state
    from safetensors.numpy import save

    from taesd_jax import AutoencoderTinyConfig, weights
    from taesd_jax.io import write_latent
    from taesd_jax.weights.files import to_bytes

    folder.mkdir()
    if kind == "config":
        params, config = random_model(SMALL)
        weights.save(folder.parent / "model", params, config)
        contents = [(folder.parent / "model" / "config.json").read_bytes()]
        contents += [b"{}", b'{"latent_channels": 16}']
    elif kind == "latent":
        contents = []
        for i, suffix in enumerate(LATENT_SUFFIXES):
            path = folder.parent / f"seed{suffix}"
            options = {} if suffix == ".npy" else {"image_size": (15, 9)}
            write_latent(path, np.ones((1, 2, 2, 4), "f4"), config=SMALL, **options)
            # The first byte chooses the format.
            contents.append(bytes([i]) + path.read_bytes())
    else:
        # One stage of two channels: small files are fuzzed more often.
        tiny = AutoencoderTinyConfig(
            encoder_block_out_channels=(2,),
            num_encoder_blocks=(1,),
            decoder_block_out_channels=(2,),
            num_decoder_blocks=(1,),
        )
        state = random_state("decoder", tiny)
        contents = [save(state), to_bytes(state, {"format": "pt"})]
        rng = np.random.default_rng(0)
        contents += [mutate(contents[i % 2], rng) for i in range(4) for mutate in MUTATIONS]
    contents = [content for content in contents if len(content) < 2**17]
    for i, content in enumerate(contents):
        (folder / f"{i:03}").write_bytes(content)
    return len(contents)


def fuzz(kind, folder, seconds):
    """Try inputs until the time is over."""
    import atheris

    with atheris.instrument_imports(include=["taesd_jax"]):
        from hostile import outcome
        from models import SMALL

        from taesd_jax import MediaFileError
        from taesd_jax.io import read_latent

    folder = Path(folder)
    target = folder / "model"
    target.mkdir(exist_ok=True)
    name = "config.json" if kind == "config" else "diffusion_pytorch_model.safetensors"

    def one(content):
        if kind == "latent":
            path = target / f"x{LATENT_SUFFIXES[content[0] % 4 if content else 0]}"
            path.write_bytes(content[1:])
            with contextlib.suppress(MediaFileError):
                assert read_latent(path, config=SMALL).latent.ndim == 4
            return
        (target / name).write_bytes(content)
        outcome(target)

    options = [f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10"]
    options += [f"-artifact_prefix=fuzz-{kind}-", "-max_len=131072"]
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()

"""Decode from many threads for a bounded time, and watch results, memory and compilations.

python tests/tools/load.py --decodes 2000
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
from models import SMALL, latent, random_model

from taesd_jax import AutoencoderTiny

THREADS = 8


def resident():
    """Return the resident size of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def decode_together(vae, shape, count):
    """Decode `count` latents in all, from eight threads; return how many results were wrong."""
    with ThreadPoolExecutor(THREADS) as threads:
        return decode_in(threads, vae, shape, count)


def decode_in(threads, vae, shape, count):
    """Decode `count` latents in all in a pool of eight; return how many results were wrong."""
    z = latent(vae.config, shape)
    wanted = np.asarray(vae.decode(z).sample).tobytes()

    def work(_):
        found = (np.asarray(vae.decode(z).sample) for _ in range(count // THREADS))
        return sum(sample.tobytes() != wanted for sample in found)

    return sum(threads.map(work, range(THREADS)))


def compilations(work):
    """Return how many programs were compiled while `work` ran."""
    counted = []

    def count(name, *_, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            counted.append(name)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        work()
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    return len(counted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--decodes", type=int, default=2000)
    args = parser.parse_args()
    vae = AutoencoderTiny(jax.device_put(random_model(SMALL)[0]), SMALL)
    first = args.decodes // 10
    wrong = []
    # The same threads all along: each new one takes memory of its own once.
    with ThreadPoolExecutor(THREADS) as threads:

        def decode(count):
            wrong.append(decode_in(threads, vae, (16, 16), count))

        decode(first)
        before = resident()
        later = compilations(lambda: decode(args.decodes - first))
    growth = resident() / before - 1
    print(
        f"{THREADS} threads, {args.decodes} decodes: {sum(wrong)} other results, {later} "
        f"compilations after the first, resident size {growth:+.1%} from decode {first} to the last"
    )
    raise SystemExit(bool(sum(wrong) or later or growth > 0.02))


if __name__ == "__main__":
    main()

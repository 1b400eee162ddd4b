"""Load checkpoints by lines of JSON on standard input, and answer in lines of JSON.

A process of its own: the hub's client reads its settings once, from the environment.
"""

import json
import sys

import numpy as np

import taesd_jax
from taesd_jax import CheckpointError
from taesd_jax.weights import pins


def main():
    for line in sys.stdin:
        wanted = json.loads(line)
        if "pin" in wanted:
            repo, revision, digests = wanted.pop("pin")
            pins.PINS = pins.PINS | {repo: pins.Pin(revision, digests)}
            taesd_jax.weights.sources.PINS = pins.PINS
        try:
            found = taesd_jax.load(wanted.pop("source"), **wanted)
        except CheckpointError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        else:
            bias = found.params["decoder"]["layers_1"]["bias"]
            answer = {"sum": float(np.sum(bias, dtype=np.float64))}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

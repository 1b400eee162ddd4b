"""Load checkpoints by lines of JSON on standard input, and answer in lines of JSON.

A process of its own: the hub's client reads its settings once, from the environment.
"""

import json
import sys

import numpy as np

import taesd_jax
from taesd_jax import CheckpointError


def main():
    for line in sys.stdin:
        options = json.loads(line)
        try:
            checkpoint = taesd_jax.load(options.pop("source"), **options)
        except CheckpointError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        else:
            bias = checkpoint.params["decoder"]["layers_1"]["bias"]
            answer = {"sum": float(np.sum(bias, dtype=np.float64))}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

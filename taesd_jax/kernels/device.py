"""Which kernels the devices at hand can run."""

from __future__ import annotations

import os

import jax

SWITCH = "TAESD_JAX_KERNELS"
# Before, Pallas had another API for them.
_OLDEST_JAX = (0, 11, 1)
_HOPPER = "9.0"  # compute capability
_H100_MULTIPROCESSORS = 132


def count_multiprocessors(kernels: bool | None = None) -> int:
    """Return the multiprocessors of this machine's Hopper GPUs, 0 where kernels must not be used.

    Args:
        kernels: False for none, True also where there is no such GPU, as to lower a program for
            another machine; by default as the environment variable TAESD_JAX_KERNELS says, on
            unless it is "0".
    """
    if kernels is None and os.environ.get(SWITCH) == "0":
        kernels = False
    if kernels is False or jax.__version_info__ < _OLDEST_JAX:
        return 0
    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    if gpus and all(getattr(gpu, "compute_capability", "") == _HOPPER for gpu in gpus):
        return getattr(gpus[0], "core_count", _H100_MULTIPROCESSORS)
    return _H100_MULTIPROCESSORS if kernels else 0

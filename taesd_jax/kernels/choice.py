"""Where the kernels for Hopper GPUs are used: on which devices, and for which shapes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax

from .forms import TO_SIGNED, ConvSpec

SWITCH = "TAESD_JAX_KERNELS"
# The first that they were tried with; 0.10 has another API.
_OLDEST_JAX = (0, 11, 2)
_HOPPER = "9.0"  # compute capability
_H100_MULTIPROCESSORS = 132
_CHANNELS = 64
_MOST_IMAGE_CHANNELS = 8


def count_multiprocessors(
    kernels: bool | None = None, *, devices: Sequence[Any] | None = None
) -> int:
    """Return the multiprocessors of the Hopper GPUs at hand, 0 where kernels must not be used.

    Args:
        kernels: False for none, True also where there is no such GPU, as to lower a program for
            another machine; by default as the environment variable TAESD_JAX_KERNELS says: on,
            unless it is "0".
        devices: Those at hand; all of JAX's by default.
    """
    if kernels is None and os.environ.get(SWITCH) == "0":
        kernels = False
    if kernels is False or jax.__version_info__ < _OLDEST_JAX:
        return 0
    gpus = [d for d in (jax.devices() if devices is None else devices) if d.platform == "gpu"]
    if gpus and all(getattr(gpu, "compute_capability", "") == _HOPPER for gpu in gpus):
        return getattr(gpus[0], "core_count", _H100_MULTIPROCESSORS)
    return _H100_MULTIPROCESSORS if kernels else 0


def is_covered(x: Any, kernel: Any, spec: ConvSpec, *, has_skip: bool) -> bool:
    """Return whether a kernel of ours serves a convolution.

    Args:
        x: Input (n, h, w, c), or anything of that shape.
        kernel: (rows, columns, c, o), likewise.
        spec: What is done.
        has_skip: Whether a skip is added.
    """
    _, h, w, c = x.shape
    if not spec.multiprocessors or c != _CHANNELS or kernel.shape[:2] != (3, 3):
        return False
    if spec.stride != 1 or spec.padding != ((1, 1), (1, 1)) or not spec.rounded or any(spec.crop):
        return False
    if spec.activation == TO_SIGNED:
        plain = not has_skip and not spec.upsample
        return plain and kernel.shape[3] <= _MOST_IMAGE_CHANNELS and w % 32 == 0
    if kernel.shape[3] != _CHANNELS or w % 8:
        return False
    if spec.upsample:
        return not has_skip and spec.activation is None
    return h % 2 == 0 and spec.activation in (None, "relu")

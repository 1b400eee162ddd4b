"""For which convolutions a kernel for Hopper GPUs serves."""

from __future__ import annotations

from typing import Any

from .forms import TO_SIGNED, ConvSpec

_CHANNELS = 64
_MOST_IMAGE_CHANNELS = 8


def is_covered(x: Any, kernel: Any, spec: ConvSpec, *, has_skip: bool) -> bool:
    """Return whether a kernel of ours serves a convolution.

    Args:
        x: Input (n, h, w, c), or anything of that shape.
        kernel: (rows, columns, c, o), likewise.
        spec: What is done.
        has_skip: Whether a skip is added.
    """
    _, h, w, c = x.shape
    if not spec.engine.multiprocessors or c != _CHANNELS or kernel.shape[:2] != (3, 3):
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

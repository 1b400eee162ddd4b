"""Tiny video autoencoders (the TAEHV family), whole or streamed in time.

Videos are floating point (n, frames, height, width, 3) in [-1, 1], latents (n, t, h, w, z) as the
diffusion model uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .public import *  # noqa: F403
    from .public import __all__ as __all__

__getattr__, __dir__ = public_names(__name__)

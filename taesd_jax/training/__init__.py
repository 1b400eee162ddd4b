"""Train encoders and decoders; needs the extra `train`: pip install 'taesd-jax[train]'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import public_names

if TYPE_CHECKING:
    from .public import *  # noqa: F403
    from .public import __all__ as __all__

__getattr__, __dir__ = public_names(__name__)

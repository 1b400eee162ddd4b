"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in model space, as the diffusion model
uses them. The public names are in `__all__` here and in the packages `convert`, `datasets`, `io`,
`pipelines`, `previews`, `training` and `video`; the module `metrics` is public too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .lazy import public_names

if TYPE_CHECKING:
    from .public import *  # noqa: F403
    from .public import __all__ as __all__


def __getattr__(name: str) -> Any:
    """Import modules and public names on first use: JAX takes a second, and some need extras."""
    if name == "__version__":
        return importlib.import_module(f"{__name__}.version").__version__
    if not name.startswith("__"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            if name == "convert":
                advice = "is the folder convert/ of the checkout: run pip install -e . there"
                raise ModuleNotFoundError(f"{error.name} {advice}", name=error.name) from error
    return _get_public(name)


_get_public, __dir__ = public_names(__name__)

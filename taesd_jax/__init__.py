"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in the model space that the diffusion
model itself sees. `taesd_jax.convert`, the PyTorch side, is imported on first use and needs
`pip install 'taesd-jax[torch]'`.
"""

import importlib
import importlib.metadata
from typing import Any

from . import exporting as exporting
from .autoencoder import AutoencoderTiny
from .config import VARIANTS, AutoencoderTinyConfig
from .errors import CheckpointError, CheckpointNotFoundError, PictureError
from .latents import from_raw, pack, patchify, to_raw, unpack, unpatchify
from .model.fitting import Fit, fit_thumbnails
from .model.functional import init
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .strategies.iterators import iter_decode, iter_encode
from .strategies.planner import Execution
from .strategies.run import decode, encode
from .strategies.strategy import Full, Strategy, Strips, Tiles
from .weights import Checkpoint, add_thumbnails, load, save, save_thumbnails

__all__ = [
    "VARIANTS",
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "AutoencoderTinyOutput",
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "DecoderOutput",
    "Execution",
    "Fit",
    "Full",
    "PictureError",
    "Strategy",
    "Strips",
    "Tiles",
    "add_thumbnails",
    "decode",
    "encode",
    "fit_thumbnails",
    "from_raw",
    "init",
    "iter_decode",
    "iter_encode",
    "load",
    "pack",
    "patchify",
    "save",
    "save_thumbnails",
    "to_raw",
    "unpack",
    "unpatchify",
]


def __getattr__(name: str) -> Any:
    """Import `convert`, or look up `__version__`, on first use."""
    if name == "__version__":
        try:
            return importlib.metadata.version("taesd-jax")
        except importlib.metadata.PackageNotFoundError:
            return "0+not.installed"
    if name != "convert":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    advice = {
        "torch": "taesd_jax.convert needs PyTorch: pip install 'taesd-jax[torch]'",
        "taesd_jax.convert": "taesd_jax.convert is the folder convert/ of the checkout, which pip "
        "makes a part of taesd_jax: run pip install -e . in the checkout",
    }
    try:
        return importlib.import_module("taesd_jax.convert")
    except ModuleNotFoundError as error:
        if error.name not in advice:
            raise
        raise ModuleNotFoundError(advice[error.name], name=error.name) from error

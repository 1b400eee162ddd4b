"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in model space, as the diffusion model
uses them. The public names are in `__all__` here and in the packages `convert`, `io`, `pipelines`,
`previews`, `training` and `video`; the module `metrics` is public too.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from . import exporting as exporting
from .autoencoder import AutoencoderTiny
from .config import VARIANTS, AutoencoderTinyConfig
from .errors import CheckpointError, CheckpointNotFoundError, MediaFileError
from .io import read_image, write_image
from .latents import (
    from_vae_latents,
    pack_latents,
    patchify_latents,
    to_vae_latents,
    unpack_latents,
    unpatchify_latents,
)
from .model.fitting import Fit, fit_thumbnails
from .model.functional import init
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .strategies.iterators import iter_decode, iter_encode
from .strategies.planner import Execution
from .strategies.run import decode, encode
from .strategies.sharding import replicate, shard_images
from .strategies.strategy import Full, Strategy, Strips, Tiles
from .version import __version__
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
    "MediaFileError",
    "Strategy",
    "Strips",
    "Tiles",
    "__version__",
    "add_thumbnails",
    "decode",
    "encode",
    "fit_thumbnails",
    "from_vae_latents",
    "init",
    "iter_decode",
    "iter_encode",
    "load",
    "pack_latents",
    "patchify_latents",
    "read_image",
    "replicate",
    "save",
    "save_thumbnails",
    "shard_images",
    "to_vae_latents",
    "unpack_latents",
    "unpatchify_latents",
    "write_image",
]


def __getattr__(name: str) -> ModuleType:
    """Import a public package on first use: some need extras."""
    if name not in ("convert", "metrics", "pipelines", "previews", "training", "video"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.convert":
            raise
        advice = "is the folder convert/ of the checkout: run pip install -e . in the checkout"
        raise ModuleNotFoundError(f"{error.name} {advice}", name=error.name) from error

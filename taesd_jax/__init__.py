"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in the model space that the diffusion
model itself sees.
"""

from . import exporting as exporting
from .autoencoder import AutoencoderTiny
from .config import VARIANTS, AutoencoderTinyConfig
from .errors import CheckpointError, CheckpointNotFoundError, PictureError
from .latents import from_raw, pack, patchify, to_raw, unpack, unpatchify
from .model.fitting import Fit, fit_heads
from .model.functional import init
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .strategies.iterators import iter_decode, iter_encode
from .strategies.planner import Execution
from .strategies.run import decode, encode
from .strategies.strategy import Full, Strategy, Strips, Tiles
from .weights import Checkpoint, add_heads, load, save, save_heads

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
    "add_heads",
    "decode",
    "encode",
    "fit_heads",
    "from_raw",
    "init",
    "iter_decode",
    "iter_encode",
    "load",
    "pack",
    "patchify",
    "save",
    "save_heads",
    "to_raw",
    "unpack",
    "unpatchify",
]

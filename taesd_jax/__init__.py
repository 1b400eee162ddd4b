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
from .model.functional import decode, encode, init
from .model.thumbnails import decode_reduced
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .strategies.batching import decode_sliced, encode_sliced
from .strategies.planner import Way
from .strategies.rows import iter_decode, iter_encode
from .strategies.streaming import decode_streaming, encode_streaming
from .strategies.strips import Plan
from .strategies.tiling import decode_tiled, encode_tiled
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
    "Fit",
    "PictureError",
    "Plan",
    "Way",
    "add_heads",
    "decode",
    "decode_reduced",
    "decode_sliced",
    "decode_streaming",
    "decode_tiled",
    "encode",
    "encode_sliced",
    "encode_streaming",
    "encode_tiled",
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

"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in the model space that the diffusion
model itself sees.
"""

from . import exporting as exporting
from .autoencoder import AutoencoderTiny
from .batching import decode_sliced, encode_sliced
from .config import VARIANTS, AutoencoderTinyConfig
from .errors import CheckpointError, CheckpointNotFoundError, PictureError
from .fitting import Fit, fit_heads
from .functional import decode, encode, init
from .heads import decode_reduced
from .latent_forms import from_raw, pack, patchify, to_raw, unpack, unpatchify
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .planner import Way
from .rows import iter_decode, iter_encode
from .streaming import decode_streaming, encode_streaming
from .strips import Plan
from .tiling import decode_tiled, encode_tiled
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

"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in the model space that the diffusion
model itself sees.
"""

from .autoencoder import AutoencoderTiny
from .batching import decode_sliced, encode_sliced
from .config import VARIANTS, AutoencoderTinyConfig
from .errors import CheckpointError, CheckpointNotFoundError, PictureError
from .functional import decode, encode, init
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .planner import Way
from .rows import iter_decode, iter_encode
from .streaming import decode_streaming, encode_streaming
from .strips import Plan
from .tiling import decode_tiled, encode_tiled
from .weights import Checkpoint, load, save

__all__ = [
    "VARIANTS",
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "AutoencoderTinyOutput",
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "DecoderOutput",
    "PictureError",
    "Plan",
    "Way",
    "decode",
    "decode_sliced",
    "decode_streaming",
    "decode_tiled",
    "encode",
    "encode_sliced",
    "encode_streaming",
    "encode_tiled",
    "init",
    "iter_decode",
    "iter_encode",
    "load",
    "save",
]

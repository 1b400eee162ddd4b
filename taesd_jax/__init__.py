"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in the model space that the diffusion
model itself sees.
"""

from .autoencoder import AutoencoderTiny, AutoencoderTinyOutput, DecoderOutput
from .batching import decode_sliced, encode_sliced
from .config import VARIANTS, AutoencoderTinyConfig
from .errors import CheckpointError, CheckpointNotFoundError, PictureError
from .functional import decode, encode, init
from .streaming import decode_streaming, encode_streaming, iter_decode
from .strips import Plan
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
    "decode",
    "decode_sliced",
    "decode_streaming",
    "encode",
    "encode_sliced",
    "encode_streaming",
    "init",
    "iter_decode",
    "load",
    "save",
]

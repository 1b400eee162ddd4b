"""Tiny autoencoders (the TAESD family) for JAX.

Arrays are NHWC: images floating point in [-1, 1], latents in the model space that the diffusion
model itself sees.
"""

from .autoencoder import AutoencoderTiny, AutoencoderTinyOutput, DecoderOutput
from .batching import decode_sliced, encode_sliced
from .config import VARIANTS, AutoencoderTinyConfig
from .errors import CheckpointError, CheckpointNotFoundError, PictureError
from .functional import decode, encode, init
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
    "decode",
    "decode_sliced",
    "encode",
    "encode_sliced",
    "init",
    "load",
    "save",
]

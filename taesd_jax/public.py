"""The public names of `taesd_jax`, which imports this module when the first one is used."""

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
from .strategies.compilation import CompiledComponent
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
    "CompiledComponent",
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

"""The public names of `taesd_jax.video`."""

from .advance import init_state
from .autoencoder import AutoencoderTinyVideo
from .checkpoints import VideoCheckpoint, load_video, save_video
from .config import VIDEO_VARIANTS, VideoConfig
from .frames import frame_indices, num_frames, num_latents
from .functional import decode_step, decode_video, encode_video
from .iterators import iter_decode_frames, iter_encode_frames
from .nnx_modules import LTX2VAE, WanVAE
from .params import init_video
from .tensors import from_tensors, to_tensors

__all__ = [
    "LTX2VAE",
    "VIDEO_VARIANTS",
    "AutoencoderTinyVideo",
    "VideoCheckpoint",
    "VideoConfig",
    "WanVAE",
    "decode_step",
    "decode_video",
    "encode_video",
    "frame_indices",
    "from_tensors",
    "init_state",
    "init_video",
    "iter_decode_frames",
    "iter_encode_frames",
    "load_video",
    "num_frames",
    "num_latents",
    "save_video",
    "to_tensors",
]

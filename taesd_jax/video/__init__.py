"""Tiny video autoencoders (the TAEHV family), whole or streamed in time.

Videos are floating point (n, frames, height, width, 3) in [-1, 1], latents (n, t, h, w, z) as the
diffusion model uses them.
"""

from .advance import init_state, init_video
from .autoencoder import AutoencoderTinyVideo
from .checkpoints import VideoCheckpoint, from_tensors, load_video, save_video, to_tensors
from .config import VIDEO_VARIANTS, VideoConfig
from .frames import frame_indices, num_frames, num_latents
from .functional import decode_step, decode_video, encode_video
from .iterators import iter_decode_frames, iter_encode_frames
from .wan import WanVAE

__all__ = [
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

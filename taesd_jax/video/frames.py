"""Which frames belong to a video: counts, and the rule of each variant."""

from __future__ import annotations

import numpy as np

from .config import VideoConfig

# taeh3 was trained on clips of as many latents.
H3_LATENTS = 5


def num_frames(num_latents: int, *, config: VideoConfig) -> int:
    """Return the frames of the video that a number of latents decodes to.

    A decoder makes `time_factor` frames of each latent. Of these do not belong to the video:

    - "causal": the first `time_factor - 1`.
    - "cogvideox": those too, but none where the number of latents is even.
    - "h3": the first `time_factor - 1` of every five latents.

    >>> from taesd_jax.video import VIDEO_VARIANTS
    >>> [num_frames(t, config=VIDEO_VARIANTS["taew2_1"]) for t in (1, 2, 21)]
    [1, 5, 81]
    >>> num_frames(7, config=VIDEO_VARIANTS["taeh3"])
    22
    """
    return len(frame_indices(num_latents, config=config))


def num_latents(num_frames: int, *, config: VideoConfig) -> int:
    """Return the latents that a video of a number of frames encodes to.

    The last frame is repeated up to a multiple of `time_factor`. "h3" encodes every 17 frames
    apart, behind three black ones, and leaves out the last three latents.

    >>> from taesd_jax.video import VIDEO_VARIANTS
    >>> [num_latents(t, config=VIDEO_VARIANTS["taew2_1"]) for t in (1, 4, 5, 81)]
    [1, 1, 2, 21]
    >>> num_latents(22, config=VIDEO_VARIANTS["taeh3"])
    7
    """
    if config.frame_rule == "h3":
        return -(-num_frames // clip_frames(config)) * H3_LATENTS - (config.time_factor - 1)
    return -(-num_frames // config.time_factor)


def clip_frames(config: VideoConfig) -> int:
    """Return the frames that "h3" encodes apart, without the black ones before them."""
    return (H3_LATENTS - 1) * config.time_factor + 1


def frame_indices(num_latents: int, *, config: VideoConfig) -> np.ndarray:
    """Return which of the frames that a decoder makes of latents belong to the video.

    >>> from taesd_jax.video import VIDEO_VARIANTS
    >>> frame_indices(2, config=VIDEO_VARIANTS["taew2_1"])
    array([3, 4, 5, 6, 7])
    """
    frames = np.arange(num_latents * config.time_factor)
    if config.frame_rule == "cogvideox" and num_latents % 2 == 0:
        return frames
    period = H3_LATENTS if config.frame_rule == "h3" else num_latents
    return frames[frames % (period * config.time_factor) >= config.time_factor - 1]

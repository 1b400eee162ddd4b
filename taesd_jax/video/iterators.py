"""Frames and latents as they are finished, for videos that never stand in memory whole."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..model.inputs import check_values
from ..model.layers import Params
from ..model.validation import check_count
from ..strategies.placement import place
from .advance import State, advance, init_state
from .config import VideoConfig
from .frames import clip_frames, frame_indices, num_latents
from .functional import checked_params, resolve_dtypes, run_step, split_clips
from .validation import check_latents, check_video

# The state before a step is not needed after it.
_run_step = functools.partial(
    jax.jit, static_argnames=("config", "dtype", "out_dtype"), donate_argnames="state"
)(run_step)


def iter_decode_frames(
    params: Params,
    latents: ArrayLike,
    *,
    config: VideoConfig,
    chunk: int = 1,
    start: int = 0,
    dtype: DTypeLike | None = None,
    out_dtype: DTypeLike | None = None,
) -> Iterator[jax.Array]:
    """Decode into finished frames, in order; not inside jit.

    Args:
        params: As for `decode_video`.
        latents: As for `decode_video`; they are read `chunk` at a time, so they may be a
            memory-mapped file.
        config: As for `decode_video`.
        chunk: Latents decoded at a time.
        start: First frame that is wanted. Decoding begins `config.context_latents` latents before
            it, all that its frames depend on, so the frames are those of the full decode.
        dtype: As for `decode_video`.
        out_dtype: As for `decode_video`.

    Yields:
        Frames (n, frames, height, width, 3), at most `chunk * config.time_factor`; all together are
        `decode_video(...)[:, start:]`.

    Raises:
        ValueError: As `decode_video`, or there is no such frame.
        TypeError: As `decode_video`.
    """
    check_latents(latents, config)
    dtypes = resolve_dtypes(latents, dtype, out_dtype)
    component_params = checked_params(params, "decoder", config)
    chunk, start = check_count("chunk", chunk), check_count("start", start, least=0)
    indices = frame_indices(np.shape(latents)[1], config=config)
    if start >= len(indices):
        raise ValueError(f"start must be a frame of 0 to {len(indices) - 1}, got {start}")
    return _iterate(component_params, latents, config, chunk, indices[start:], dtypes)


def _iterate(
    params: Params,
    latents: Any,
    config: VideoConfig,
    chunk: int,
    indices: np.ndarray,
    dtypes: tuple[str, str],
) -> Iterator[jax.Array]:
    dtype, out_dtype = dtypes
    n, t, h, w, _ = np.shape(latents)
    factor = config.time_factor
    state = init_state((n, h, w), config=config, dtype=dtype)
    for first in range(max(0, indices[0] // factor - config.context_latents), t, chunk):
        params, part = place((params, latents[:, first : first + chunk]))
        state, frames = _run_step(
            params, state, part, config=config, dtype=dtype, out_dtype=out_dtype
        )
        wanted = indices[np.isin(indices // factor, range(first, first + chunk))] - first * factor
        if len(wanted):
            yield frames if len(wanted) == frames.shape[1] else frames[:, wanted]


def iter_encode_frames(
    params: Params,
    frames: Iterable[ArrayLike],
    *,
    config: VideoConfig,
    chunk: int = 1,
    dtype: DTypeLike | None = None,
) -> Iterator[jax.Array]:
    """Encode frames as they come; not inside jit.

    Args:
        params: As for `encode_video`.
        frames: Frames (n, height, width, 3), as for `encode_video`.
        config: As for `encode_video`.
        chunk: Latents encoded at a time; five with the frame rule "h3".
        dtype: As for `encode_video`.

    Yields:
        Latents (n, k, h, w, z), which lag one chunk behind the frames; all together are those of
        `encode_video`.

    Raises:
        ValueError: As `encode_video`, or there are no frames.
        TypeError: As `encode_video`.
    """
    component_params = checked_params(params, "encoder", config)
    is_h3 = config.frame_rule == "h3"
    size = clip_frames(config) if is_h3 else check_count("chunk", chunk) * config.time_factor
    return _iterate_encode(component_params, iter(frames), config, size, dtype)


def _iterate_encode(
    params: Params, frames: Iterator[Any], config: VideoConfig, size: int, dtype: Any
) -> Iterator[jax.Array]:
    state, latents, read, done = None, None, 0, 0
    while part := list(itertools.islice(frames, size)):
        if latents is not None:
            yield latents
            done += latents.shape[1]
        stack = np.stack if isinstance(part[0], np.ndarray) else jnp.stack
        video = stack(part, axis=1)
        check_video(video, config)
        check_values(video, "encoder")
        name, _ = resolve_dtypes(video, dtype, None)
        params, video = place((params, video))
        if state is None or config.frame_rule == "h3":  # whose clips are encoded apart
            n, _, *sides = video.shape[:4]
            h, w = (side // config.spatial_factor for side in sides)
            state = init_state((n, h, w), config=config, component="encoder", dtype=name)
        state, latents = _encode_step(params, state, video, config=config, dtype=name)
        read += len(part)
    if latents is None:
        raise ValueError("there are no frames to encode")
    yield latents[:, : num_latents(read, config=config) - done]


@functools.partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames="state")
def _encode_step(
    params: Params, state: State, video: jax.Array, *, config: VideoConfig, dtype: str
) -> tuple[State, jax.Array]:
    clips = split_clips(video.astype(dtype), config)
    return advance(params, state, clips, config=config, component="encoder")

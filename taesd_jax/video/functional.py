"""Encode and decode videos, whole, in chunks or step by step: pure functions, compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..model.functional import check_params, quantize, select_component
from ..model.inputs import check_values
from ..model.layers import Component, Params
from ..model.validation import check_count, check_dtype, check_out_dtype
from ..strategies.placement import place
from .advance import State, advance, init_state
from .config import VideoConfig
from .frames import clip_frames, frame_indices
from .frames import num_latents as count_latents
from .params import abstract_params
from .validation import check_latents, check_state, check_video


def decode_video(
    params: Params,
    latents: ArrayLike,
    *,
    config: VideoConfig,
    chunk: int | None = None,
    dtype: DTypeLike | None = None,
    out_dtype: DTypeLike | None = None,
) -> jax.Array:
    """Decode latents into videos.

    Every chunk gives the same videos: on a CPU in float32 the same bits.

    Args:
        params: Nested dict with the key "decoder".
        latents: Floating point (n, t, h, w, z), as the diffusion model itself sees them.
        config: Architecture.
        chunk: Latents decoded at a time; memory beside the result then does not grow with t. None
            for all of them.
        dtype: Dtype of the computation; the latents' by default.
        out_dtype: Dtype of the videos; by default `dtype`. "uint8" clips them to [-1, 1], maps that
            to 0 to 255 and rounds to nearest, on the device; NaN becomes 0.

    Returns:
        Videos (n, num_frames(t), spatial_factor * h, spatial_factor * w, 3) of about [-1, 1], not
        clipped but for uint8.

    Raises:
        ValueError: The latents have another shape, params do not fit config, or chunk is not
            positive.
        TypeError: The latents are not floating point, or an argument has the wrong type.

    >>> from taesd_jax.video import VideoConfig, init_video
    >>> config = VideoConfig(decoder_channels=(8, 8, 8, 8), num_blocks=1)  # quick to compile
    >>> params = init_video(jax.random.key(0), config=config)
    >>> decode_video(params, jnp.zeros((1, 3, 2, 4, 16)), config=config, chunk=1).shape
    (1, 9, 16, 32, 3)
    """
    check_latents(latents, config)
    dtype, out_dtype = resolve_dtypes(latents, dtype, out_dtype)
    component_params = checked_params(params, "decoder", config)
    chunk = _resolve_chunk(chunk)
    return _decode(*place((component_params, latents)), config, chunk, dtype, out_dtype)


def encode_video(
    params: Params,
    video: ArrayLike,
    *,
    config: VideoConfig,
    chunk: int | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Encode videos into latents, as the diffusion model itself sees them.

    Args:
        params: Nested dict with the key "encoder".
        video: Floating point (n, frames, height, width, 3) in [-1, 1]; height and width are
            multiples of `config.spatial_factor`.
        config: Architecture.
        chunk: Latents encoded at a time, as in `decode_video`.
        dtype: Dtype of the computation and of the result; the video's by default.

    Returns:
        Latents (n, num_latents(frames), height / spatial_factor, width / spatial_factor, z).

    Raises:
        ValueError: The video has another shape or range, params do not fit config, or chunk is not
            positive.
        TypeError: The video is not floating point, or an argument has the wrong type.

    >>> from taesd_jax.video import VideoConfig, init_video
    >>> config = VideoConfig(decoder_channels=(8, 8, 8, 8), num_blocks=1)  # quick to compile
    >>> params = init_video(jax.random.key(0), config=config)
    >>> encode_video(params, jnp.zeros((1, 9, 16, 32, 3)), config=config).shape
    (1, 3, 2, 4, 16)
    """
    check_video(video, config)
    dtype, _ = resolve_dtypes(video, dtype, None)
    component_params = checked_params(params, "encoder", config)
    check_values(video, "encoder")
    return _encode(*place((component_params, video)), config, _resolve_chunk(chunk), dtype)


def decode_step(
    params: Params,
    state: State,
    latents: jax.Array,
    *,
    config: VideoConfig,
    out_dtype: DTypeLike | None = None,
) -> tuple[State, jax.Array]:
    """Decode the next latents of a video; for `lax.scan` and for models that write as they go.

    Args:
        params: Nested dict with the key "decoder".
        state: From `init_state` before the first latent, then from here; its dtype is that of the
            computation.
        latents: Floating point (n, k, h, w, z), usually k = 1.
        config: Architecture.
        out_dtype: As in `decode_video`.

    Returns:
        The state, and (n, k * time_factor, height, width, 3): all frames, also those that
        `frame_indices` leaves out of a video.

    Raises:
        ValueError: The latents have another shape, or params or state do not fit.
        TypeError: The latents are not floating point.

    >>> from taesd_jax.video import VideoConfig, init_state, init_video
    >>> config = VideoConfig(decoder_channels=(8, 8, 8, 8), num_blocks=1)  # quick to compile
    >>> params = init_video(jax.random.key(0), config=config)
    >>> state = init_state((1, 2, 4), config=config)
    >>> state, frames = decode_step(params, state, jnp.zeros((1, 1, 2, 4, 16)), config=config)
    >>> frames.shape
    (1, 4, 16, 32, 3)
    """
    check_latents(latents, config)
    component_params = checked_params(params, "decoder", config)
    check_state(state, latents, config)
    dtype, out_dtype = resolve_dtypes(latents, next(iter(state.values())).dtype, out_dtype)
    return run_step(*place((component_params, state, latents)), config, dtype, out_dtype)


def checked_params(params: Params, component: Component, config: VideoConfig) -> Params:
    """Return the params of a component, or raise ValueError unless they are those of config."""
    component_params = select_component(params, component)
    check_params(component_params, abstract_params(component, config), component)
    return component_params


def resolve_dtypes(x: Any, dtype: Any, out_dtype: Any) -> tuple[str, str]:
    """Return the names of the dtypes of a computation and of its result."""
    if dtype is None:
        dtype = jax.dtypes.canonicalize_dtype(x.dtype.newbyteorder("="))
    dtype = check_dtype(dtype)
    return dtype, dtype if out_dtype is None else check_out_dtype(out_dtype)


def _resolve_chunk(chunk: int | None) -> int | None:
    return None if chunk is None else check_count("chunk", chunk)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def run_step(
    params: Params,
    state: State,
    latents: jax.Array,
    config: VideoConfig,
    dtype: str,
    out_dtype: str,
) -> tuple[State, jax.Array]:
    """Decode the next latents in a dtype, and return all frames in another."""
    state, frames = advance(params, state, latents.astype(dtype), config=config)
    return state, quantize(frames) if out_dtype == "uint8" else frames.astype(out_dtype)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _decode(
    params: Params,
    latents: jax.Array,
    config: VideoConfig,
    chunk: int | None,
    dtype: str,
    out_dtype: str,
) -> jax.Array:
    n, t, h, w, _ = latents.shape

    def step(state: State, latents: jax.Array) -> tuple[State, jax.Array]:
        return run_step(params, state, latents, config, dtype, out_dtype)

    state = init_state((n, h, w), config=config, dtype=dtype)
    frames = _scan(step, state, latents, chunk or t)
    return frames[:, frame_indices(t, config=config)]


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _encode(
    params: Params, video: jax.Array, config: VideoConfig, chunk: int | None, dtype: str
) -> jax.Array:
    n, frames, height, width, _ = video.shape
    clips = split_clips(video.astype(dtype), config)
    size = (clips.shape[0], height // config.spatial_factor, width // config.spatial_factor)

    def step(state: State, video: jax.Array) -> tuple[State, jax.Array]:
        return advance(params, state, video, config=config, component="encoder")

    state = init_state(size, config=config, component="encoder", dtype=dtype)
    chunk = clips.shape[1] if chunk is None else chunk * config.time_factor
    latents = _scan(step, state, clips, chunk)
    latents = latents.reshape(n, -1, *latents.shape[2:])
    return latents[:, : count_latents(frames, config=config)]


def split_clips(video: jax.Array, config: VideoConfig) -> jax.Array:
    """Return what is encoded as one, as a batch: (n, frames, ...) -> (n * clips, frames, ...)."""
    is_h3 = config.frame_rule == "h3"
    multiple = clip_frames(config) if is_h3 else config.time_factor
    missing = -video.shape[1] % multiple
    video = jnp.concatenate([video, jnp.repeat(video[:, -1:], missing, axis=1)], axis=1)
    if not is_h3:
        return video
    clips = video.reshape(-1, multiple, *video.shape[2:])
    black = jnp.full_like(clips[:, : config.time_factor - 1], -1)
    return jnp.concatenate([black, clips], axis=1)


def _scan(step: Callable[..., Any], state: State, x: jax.Array, chunk: int) -> jax.Array:
    """Run x (n, t, ...) through a step, `chunk` frames or latents at a time."""
    n, t = x.shape[:2]
    even = t - t % chunk
    chunks = jnp.moveaxis(x[:, :even].reshape(n, -1, chunk, *x.shape[2:]), 1, 0)
    results = []
    if even:
        state, y = lax.scan(step, state, chunks)
        y = jnp.moveaxis(y, 0, 1)
        results.append(y.reshape(n, -1, *y.shape[3:]))
    if even < t:
        results.append(step(state, x[:, even:])[1])
    return jnp.concatenate(results, axis=1)

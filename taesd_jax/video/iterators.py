"""Frames as they are finished, for videos that should never stand in memory whole."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..model.layers import Params
from ..model.validation import check_count
from ..strategies.placement import place
from .advance import init_state
from .config import VideoConfig
from .frames import frame_indices
from .functional import checked_params, resolve_dtypes, run_step
from .validation import check_latents

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

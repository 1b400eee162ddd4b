"""Iterators over finished rows, for pictures and latents too large to hold in memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.functional import Params, bind, half_of, placement, resolve_dtypes
from ..model.layers import Half
from ..model.modules import apply_layers
from ..model.validation import check_image, check_latent
from .streaming import check_plan
from .strips import Plan, Stream
from .windows import Tiling


def iter_decode(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    plan: Plan | None = None,
    dtype: DTypeLike | None = None,
    start: int = 0,
) -> Iterator[jax.Array]:
    """Decode into strips of finished image rows, from the top; not inside jit.

    Args:
        params: As for `decode`.
        latent: As for `decode`; each strip holds rows of every image in the batch. With no whole
            stages in the plan it is read row by row, so it may be a memory-mapped file.
        config: As for `decode`.
        plan: How to stream; `default_plan` without one.
        dtype: As for `decode`.
        start: First image row that is wanted; the work for those above is left out.

    Yields:
        Images (n, rows, 8w, 3); all strips together are the rows of `decode` from `start`.

    Raises:
        ValueError: As `decode`, the plan does not fit the config, or there is no such row.
        TypeError: As `decode`.
    """
    check_latent(latent, config)
    _check_start(start, np.shape(latent)[1] * config.spatial_factor)
    compute, result = resolve_dtypes(latent, config, dtype)
    plan = check_plan(plan, "decoder", config)
    return _decode(half_of(params, "decoder"), latent, config, plan, compute, result, start)


def iter_encode(
    params: Params,
    image: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    rows: int = 4,
    dtype: DTypeLike | None = None,
    start: int = 0,
) -> Iterator[jax.Array]:
    """Encode into strips of finished latent rows, from the top; not inside jit.

    Args:
        params: As for `encode`.
        image: As for `encode`; read row by row, so it may be a memory-mapped file.
        config: As for `encode`. A GroupNorm over the image (taef2) keeps the features before it in
            memory and gives all rows at once.
        rows: Latent rows of a strip.
        dtype: As for `encode`.
        start: First latent row that is wanted; the work for those above is left out.

    Yields:
        Latents (n, rows, w/8, z); all strips together are the rows of `encode` from `start`.

    Raises:
        ValueError: As `encode`, rows is not positive, or there is no row `start`.
        TypeError: As `encode`.
    """
    check_image(image, config)
    _check_start(start, -(-np.shape(image)[1] // config.spatial_factor))
    compute, result = resolve_dtypes(image, config, dtype)
    plan = check_plan(Plan(int(config.pool_channels > 0), rows), "encoder", config)
    return _encode(half_of(params, "encoder"), image, config, plan, compute, result, start)


def _check_start(start: int, height: int) -> None:
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < height:
        raise ValueError(f"start must be a row from 0 to {height - 1}, got {start!r}")


def _decode(half_params, latent, config, plan, compute, result, start) -> Iterator[jax.Array]:
    x = latent
    if plan.whole:
        x = _apply_whole(half_params, latent, "decoder", config.architecture, plan, compute)
    yield from _strips(half_params, x, "decoder", config, plan, compute, result, start)


def _encode(half_params, image, config, plan, compute, result, start) -> Iterator[jax.Array]:
    if not plan.whole:
        yield from _strips(half_params, image, "encoder", config, plan, compute, result, start)
        return
    strips = _strips(half_params, image, "encoder", config, plan, compute, compute, 0)
    features = np.concatenate([np.asarray(strip) for strip in strips], axis=1)
    latent = _apply_whole(half_params, features, "encoder", config.architecture, plan, compute)
    yield latent[:, start:].astype(result)


def _strips(
    half_params: Params,
    x: Any,
    half: Half,
    config: AutoencoderTinyConfig,
    plan: Plan,
    compute: str,
    result: str,
    start: int,
) -> Iterator[jax.Array]:
    where = placement(x, half_params)
    x = np.asarray(x) if isinstance(x, jax.Array) else x
    begin, skip = _begin(half, config, plan, start)
    stream = Stream(half, config.architecture, plan, x.shape[1] - begin)
    kept, done = None, 0
    for step in range(-1, stream.steps):
        top, rows = stream.rows_of(step, first=kept is None)
        last = x.shape[1] - 1
        first = min(begin + top, last)
        strip = np.asarray(x[:, first : min(begin + top + rows, last + 1)])
        strip: Any = np.pad(strip, ((0, 0), (0, rows - strip.shape[1]), (0, 0), (0, 0)))
        strip = strip if where is None else jax.device_put(strip, where)
        made, kept = _step(half_params, strip, top, kept, stream, compute, result)
        made = made[:, max(0, skip - done) : stream.height_out - done]
        done += stream.first_out if step < 0 else stream.rows_out
        if made.shape[1]:
            yield made


def _begin(half: Half, config: AutoencoderTinyConfig, plan: Plan, start: int) -> tuple[int, int]:
    """Return the input row to begin at for output row `start`, and how many output rows to skip."""
    tiling = Tiling(half, config.architecture, plan.whole, 1)
    margin = -tiling.spans[0].start
    if half == "decoder":
        begin = max(0, start // tiling.scale - margin)
        return begin, start - begin * tiling.scale
    begin = max(0, start - -(-margin // tiling.scale))
    return begin * tiling.scale, start - begin


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _apply_whole(
    half_params: Params,
    x: jax.Array,
    half: Half,
    config: AutoencoderTinyConfig,
    plan: Plan,
    compute: str,
) -> jax.Array:
    module = bind(half_params, half, config)
    layers = Stream(half, config, plan, 0).parts[0]
    return apply_layers(module, layers, x.astype(compute))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _step(
    half_params: Params,
    strip: jax.Array,
    top: jax.Array | int,
    kept: list[jax.Array] | None,
    stream: Stream,
    compute: str,
    result: str,
) -> tuple[jax.Array, list[jax.Array]]:
    module = bind(half_params, stream.half, stream.config)
    made, kept = stream.run(module, strip.astype(compute), top, kept, compute)
    return made.astype(result), kept

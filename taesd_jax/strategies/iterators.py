"""Iterators over finished rows, for images and latents too large to hold in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.functional import Computation, Params, bind, finish, select_component
from ..model.layers import build_layers
from ..model.validation import check_image, check_latent
from .geometry import Geometry, size_after
from .parts import Extent, copy_native, run_full_stages_alone
from .sharding import replicated_sharding
from .strategy import Strips, min_full_stages, resolve_strategy
from .strips import Carry, run_strip


def iter_decode(
    params: Params,
    latents: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    strategy: Strips | None = None,
    dtype: DTypeLike | None = None,
    out_dtype: DTypeLike | None = None,
    start: int = 0,
) -> Iterator[jax.Array]:
    """Decode into strips of finished image rows, from the top; not inside jit.

    Args:
        params: As for `decode`.
        latents: As for `decode`; each strip holds rows of every image in the batch. Without full
            stages in the strategy they are read row by row, so they may be a memory-mapped file.
        config: As for `decode`.
        strategy: The strips; None is `Strips()`.
        dtype: As for `decode`.
        out_dtype: As for `decode`.
        start: First image row that is wanted; the work for those above is left out.

    Yields:
        Images (n, rows, 8w, 3); all strips together are the rows of `decode` from `start`.

    Raises:
        ValueError: As `decode`, or there is no such row.
        TypeError: As `decode`.
    """
    check_latent(latents, config)
    options: dict[str, Any] = {"dtype": dtype, "out_dtype": out_dtype}
    computation = Computation.of("decoder", latents, config=config, **options)
    return _iterate(params, latents, computation, strategy or Strips(), start)


def iter_encode(
    params: Params,
    images: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    strategy: Strips | None = None,
    dtype: DTypeLike | None = None,
    start: int = 0,
) -> Iterator[jax.Array]:
    """Encode into strips of finished latent rows, from the top; not inside jit.

    Args:
        params: As for `encode`.
        images: As for `encode`; read row by row, so they may be a memory-mapped file.
        config: As for `encode`.
        strategy: The strips; by default 4 latent rows a strip, and as few full stages as can be:
            with any (taef2 needs one) the features before them are kept in memory, and all rows
            come at once.
        dtype: As for `encode`.
        start: First latent row that is wanted; the work for those above is left out.

    Yields:
        Latents (n, rows, w/8, z); all strips together are the rows of `encode` from `start`.

    Raises:
        ValueError: As `encode`, or there is no such row.
        TypeError: As `encode`.
    """
    check_image(images, config)
    strategy = strategy or Strips(rows=4)
    if isinstance(strategy, Strips) and strategy.full_stages is None:
        strategy = dataclasses.replace(strategy, full_stages=min_full_stages(config))
    computation = Computation.of("encoder", images, config=config, dtype=dtype)
    return _iterate(params, images, computation, strategy, start)


def _iterate(
    params: Params, x: Any, computation: Computation, strategy: Strips, start: int
) -> Iterator[jax.Array]:
    component, config = computation.component, computation.config
    strips = resolve_strategy(strategy, component, config)
    if not isinstance(strips, Strips):
        raise TypeError(f"rows come from strips: strategy must be Strips(), got {strips}")
    geometry = Geometry.of(strips, component, config)
    height = size_after(build_layers(component, config), x.shape[1])
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < height:
        raise ValueError(f"start must be a row from 0 to {height - 1}, got {start!r}")
    rows = _decoded_rows if component == "decoder" else _encoded_rows
    return rows(select_component(params, component), x, computation, geometry, start)


def _decoded_rows(
    decoder_params: Params, latents: Any, computation: Computation, geometry: Geometry, start: int
) -> Iterator[jax.Array]:
    if geometry.full_layers:
        latents = copy_native(latents) if isinstance(latents, np.ndarray) else latents
        latents = run_full_stages_alone(decoder_params, latents, computation, geometry)
    for strip in _strips(decoder_params, latents, computation, geometry, start):
        yield finish(strip, computation)


def _encoded_rows(
    encoder_params: Params, images: Any, computation: Computation, geometry: Geometry, start: int
) -> Iterator[jax.Array]:
    if not geometry.full_layers:
        for strip in _strips(encoder_params, images, computation, geometry, start):
            yield finish(strip, computation)
        return
    strips = _strips(encoder_params, images, computation, geometry, 0)
    features = np.concatenate([np.asarray(strip) for strip in strips], axis=1)
    latents = run_full_stages_alone(encoder_params, features, computation, geometry)
    yield finish(latents[:, start:], computation)


def _strips(
    component_params: Params, x: Any, computation: Computation, geometry: Geometry, start: int
) -> Iterator[jax.Array]:
    """Yield rows of what the layers in strips give, from row `start`."""
    where = replicated_sharding(x, component_params)
    x = np.asarray(x) if isinstance(x, jax.Array) else x
    begin, done = geometry.begin_for(start)
    x_height, height = x.shape[1], size_after(geometry.layers, x.shape[1])
    rows, carry, top = geometry.spans[0].stop, None, begin
    while done < height:
        last = min(top, x_height - 1)  # below the image anything will do
        strip = np.asarray(x[:, last : min(top + rows, x_height)])
        strip = np.pad(strip, ((0, 0), (0, rows - strip.shape[1]), (0, 0), (0, 0)))
        strip: Any = copy_native(strip)
        strip = strip if where is None else jax.device_put(strip, where)
        extent = Extent(top - begin, x_height - begin)
        out, carry = _strip(component_params, strip, extent, carry, computation, geometry)
        wanted = out[:, max(0, start - done) : height - done]
        done += out.shape[1]
        top, rows = top + rows, geometry.size_in
        if wanted.shape[1]:
            yield wanted


@functools.partial(jax.jit, static_argnums=(4, 5))
def _strip(
    component_params: Params,
    strip: jax.Array,
    rows: Extent,
    carry: Sequence[jax.Array] | None,
    computation: Computation,
    geometry: Geometry,
) -> tuple[jax.Array, Carry]:
    module = bind(component_params, computation.component, computation.config)
    strip = strip.astype(computation.dtype)
    return run_strip(module, strip, rows, carry, geometry)

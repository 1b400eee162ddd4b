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
from ..model.inputs import check_values, copy_native, warn_of_scale
from ..model.layers import build_layers
from ..model.validation import check_count
from .geometry import Geometry, size_after
from .parts import Extent, run_full_stages_alone
from .placement import place, replicated_sharding
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

    Arguments and errors are those of `decode`, except for `strategy`, `Strips()` by default, and
    `start`, the first image row to yield: what only rows above it need is not computed. Latents
    must stay as they are until the last row. Strips without full stages read them row by row, so
    they may be a memory-mapped file.

    Yields:
        Images (n, rows, 8w, 3); all strips together are the rows of `decode` from `start`.
    """
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

    Arguments and errors are those of `encode`, except for `start`, the first latent row to yield,
    and `strategy`: by default 4 latent rows a strip and as few full stages as can be. With any
    (taef2 needs one) the features before them are kept in memory, and all rows come at once. Images
    are read row by row, so they must stay as they are and may be a memory-mapped file.

    Yields:
        Latents (n, rows, w/8, z); all strips together are the rows of `encode` from `start`.
    """
    computation = Computation.of("encoder", images, config=config, dtype=dtype)
    strategy = strategy or Strips(rows=4)
    if isinstance(strategy, Strips) and strategy.full_stages is None:
        strategy = dataclasses.replace(strategy, full_stages=min_full_stages(config))
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
    if check_count("start", start, least=0) >= height:
        raise ValueError(f"start must be a row from 0 to {height - 1}, got {start}")
    if component == "decoder":
        warn_of_scale(x)
    rows = _decoded_rows if component == "decoder" else _encoded_rows
    return rows(select_component(params, component), x, computation, geometry, start)


def _decoded_rows(
    decoder_params: Params, latents: Any, computation: Computation, geometry: Geometry, start: int
) -> Iterator[jax.Array]:
    if geometry.full_layers:
        check_values(latents, "decoder")
        decoder_params, latents = place((decoder_params, latents))
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
    features = np.concatenate([jax.device_get(strip) for strip in strips], axis=1)
    inputs = place((encoder_params, features))
    latents = run_full_stages_alone(*inputs, computation, geometry)
    yield finish(latents[:, start:], computation)


def _strips(
    component_params: Params, x: Any, computation: Computation, geometry: Geometry, start: int
) -> Iterator[jax.Array]:
    """Yield rows of what the layers in strips give, from row `start`."""
    where = replicated_sharding(x, component_params)
    component_params = place(component_params)
    from_host = isinstance(x, np.ndarray)
    x = jax.device_get(x)
    begin, done = geometry.begin_for(start)
    x_height, height = x.shape[1], size_after(geometry.layers, x.shape[1])
    rows, carry, top = geometry.spans[0].stop, None, begin
    while done < height:
        last = min(top, x_height - 1)  # below the image anything will do
        strip = np.asarray(x[:, last : min(top + rows, x_height)])
        if from_host:
            check_values(strip, computation.component)
        strip = np.pad(strip, ((0, 0), (0, rows - strip.shape[1]), (0, 0), (0, 0)))
        extent = Extent(top - begin, x_height - begin)
        part = jax.device_put((copy_native(strip), extent), where)
        out, carry = _strip(component_params, *part, carry, computation, geometry)
        finished = out[:, max(0, start - done) : height - done]
        done += out.shape[1]
        top, rows = top + rows, geometry.size_in
        if finished.shape[1]:
            yield finished


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

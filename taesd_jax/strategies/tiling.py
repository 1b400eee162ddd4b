"""Exact tiles: one compiled program for images of every size, in memory that does not grow."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.functional import (
    Params,
    bind,
    half_of,
    is_sharded,
    partitioned,
    placement,
    resolve_dtypes,
)
from ..model.layers import Half
from ..model.modules import apply_layers
from ..model.validation import check_image, check_latent
from .batching import check_chunk
from .windows import TILE, Tiling


def decode_tiled(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    tile: int = TILE,
    chunk: int = 1,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Decode in square tiles; the result of `taesd_jax.decode`.

    On a CPU it is so bit for bit, but for pictures a few latents wide or high: there XLA multiplies
    in another order for another shape.

    Every tile has the context that its pixels depend on, computed from the layers, so there are no
    seams. Outside jit the picture is put together in host memory, and one compiled program serves
    latents of every size; taef2's first stage has a norm over the whole image and is compiled for
    each size.

    Args:
        params: As for `decode`.
        latent: As for `decode`.
        config: As for `decode`.
        tile: Side of a tile in latents.
        chunk: Tiles computed at a time.
        dtype: As for `decode`.

    Raises:
        ValueError: As `decode`, or tile or chunk is not a positive integer.
        TypeError: As `decode`.
    """
    check_latent(latent, config)
    return _run(params, latent, "decoder", config, tile, chunk, dtype)


def encode_tiled(
    params: Params,
    image: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    tile: int = TILE,
    chunk: int = 1,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Encode in square tiles; the result of `taesd_jax.encode`.

    On a CPU it is so bit for bit, but for pictures a few latents wide or high: there XLA multiplies
    in another order for another shape.

    Args:
        params: As for `encode`.
        image: As for `encode`.
        config: As for `encode`.
        tile: Side of a tile in latents.
        chunk: Tiles computed at a time.
        dtype: As for `encode`.

    Raises:
        ValueError: As `encode`, or tile or chunk is not a positive integer.
        TypeError: As `encode`.
    """
    check_image(image, config)
    return _run(params, image, "encoder", config, tile, chunk, dtype)


def check_tile(tile: int) -> int:
    """Return `tile` if it is a positive integer, else raise ValueError."""
    if isinstance(tile, bool) or not hasattr(tile, "__index__") or tile < 1:
        raise ValueError(f"tile must be a positive number of latents, got {tile!r}")
    return operator.index(tile)


def _run(
    params: Params,
    x: Any,
    half: Half,
    config: AutoencoderTinyConfig,
    tile: int,
    chunk: int,
    dtype: DTypeLike | None,
) -> jax.Array:
    tile, chunk = check_tile(tile), check_chunk(chunk)
    compute, result = resolve_dtypes(x, config, dtype)
    half_params = half_of(params, half)
    tiling = Tiling.of(half, config, tile)
    # Inside jit whatever is computed is traced, even of concrete arrays.
    leaves = (jnp.zeros(()), *jax.tree.leaves((half_params, x)))
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    gather = _in_graph if traced or is_sharded(x) else _on_host
    if not tiling.whole:
        return gather(half_params, x, tiling, chunk, compute, result)
    if half == "decoder":
        x = _apply_whole(half_params, x, tiling, compute, compute)
        return gather(half_params, x, tiling, chunk, compute, result)
    x = gather(half_params, x, tiling, chunk, compute, compute)
    return _apply_whole(half_params, x, tiling, compute, result)


def _on_host(
    half_params: Params, x: Any, tiling: Tiling, chunk: int, compute: str, result: str
) -> jax.Array:
    where = placement(x, half_params)
    x = np.asarray(x)
    n, h, w, _ = x.shape
    places = list(itertools.product(range(n), _places((h, w), tiling)))
    out = None
    for start in range(0, len(places), chunk):
        # The last chunk is filled up with its first tile.
        some = places[start : start + chunk]
        full = some + some[:1] * (chunk - len(some))
        windows: Any = np.concatenate([_cut(x[i : i + 1], place, tiling, np) for i, place in full])
        windows = windows if where is None else jax.device_put(windows, where)
        tiles = _tiles(
            half_params,
            windows,
            np.array([place for _, place in full]),
            np.array([h, w]),
            tiling,
            compute,
            result,
        )
        tiles = np.asarray(tiles)
        if out is None:
            shape = (n, tiling.size_out(h), tiling.size_out(w), tiles.shape[-1])
            out = np.empty(shape, tiles.dtype)
        for (i, place), tile in zip(some, tiles, strict=False):
            y, x_ = (p // tiling.side_in * tiling.side_out for p in place)
            target = out[i, y : y + tiling.side_out, x_ : x_ + tiling.side_out]
            target[...] = tile[: target.shape[0], : target.shape[1]]
    return jax.device_put(out, where)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _in_graph(
    half_params: Params, x: jax.Array, tiling: Tiling, chunk: int, compute: str, result: str
) -> jax.Array:
    def run(half_params: Params, x: jax.Array) -> jax.Array:
        module = bind(half_params, tiling.half, tiling.config)
        n, h, w, _ = x.shape

        def one(place: jax.Array) -> jax.Array:
            # The whole batch at once: it may lie on several devices.
            window = _cut(x, place, tiling, jnp).astype(compute)
            return tiling.run(module, window, place, jnp.array([h, w]), compute)

        tiles = lax.map(one, jnp.array(_places((h, w), tiling)), batch_size=chunk)
        rows, columns = -(-h // tiling.side_in), -(-w // tiling.side_in)
        side, channels = tiling.side_out, tiles.shape[-1]
        out = tiles.reshape(rows, columns, n, side, side, channels).transpose(2, 0, 3, 1, 4, 5)
        out = out.reshape(n, rows * side, columns * side, channels)
        return out[:, : tiling.size_out(h), : tiling.size_out(w)].astype(result)

    return partitioned(run, x)(half_params, x)


def _places(size: tuple[int, ...], tiling: Tiling) -> list[tuple[int, int]]:
    """List row and column at which each tile begins."""
    step = tiling.side_in
    return list(itertools.product(range(0, size[0], step), range(0, size[1], step)))


def _cut(x: Any, place: Any, tiling: Tiling, xp: Any) -> Any:
    """Cut a tile's window (n, s, s, c) out of x; outside the image it repeats the edge."""
    top, left = place
    reach = xp.arange(*tiling.spans[0])
    rows = xp.clip(top + reach, 0, x.shape[1] - 1)
    columns = xp.clip(left + reach, 0, x.shape[2] - 1)
    return x[:, rows[:, None], columns]


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _tiles(
    half_params: Params,
    windows: jax.Array,
    places: jax.Array,
    size: jax.Array,
    tiling: Tiling,
    compute: str,
    result: str,
) -> jax.Array:
    module = bind(half_params, tiling.half, tiling.config)

    def one(window: jax.Array, place: jax.Array) -> jax.Array:
        return tiling.run(module, window[None].astype(compute), place, size, compute)[0]

    return jax.vmap(one)(windows, places).astype(result)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _apply_whole(
    half_params: Params, x: jax.Array, tiling: Tiling, compute: str, result: str
) -> jax.Array:
    module = bind(half_params, tiling.half, tiling.config)
    return apply_layers(module, tiling.whole_layers, x.astype(compute)).astype(result)

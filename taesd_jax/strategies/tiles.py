"""Exact tiles: each brings the context that its result depends on, computed from the layers.

Every convolution runs without padding and leaves a tile's window smaller, until it is the tile.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..model.convolutions import Conv, UpsampleConv
from ..model.functional import Computation, Params, bind, finish
from ..model.inputs import copy_native
from ..model.modules import Network
from .geometry import Geometry, Span, size_after
from .parts import Extent, run_full_stages_alone, run_part, zero_outside
from .placement import place, replicated_sharding


def run_tiles(module: Network, x: jax.Array, geometry: Geometry) -> jax.Array:
    """Run the layers that run in parts on x (n, h, w, c), one tile of all n after another."""
    height, width = (size_after(geometry.layers, size) for size in x.shape[1:3])
    places = jnp.array(list(itertools.product(geometry.starts(height), geometry.starts(width))))

    def body(i: Any, out: jax.Array) -> jax.Array:
        (top_in, top), (left_in, left) = places[i]
        rows, columns = Extent(top_in, x.shape[1]), Extent(left_in, x.shape[2])
        window = _window(x, rows, columns, geometry, jnp)
        tile = _run_tile(module, window, rows, columns, geometry)
        tile = tile[:, :height, :width]  # an image may be smaller than a tile
        return lax.dynamic_update_slice(out, tile, (0, top, left, 0))

    shape = (x.shape[0], height, width, geometry.layers[-1].out_channels)
    return lax.fori_loop(0, len(places), body, jnp.zeros(shape, x.dtype))


def run_tiles_on_host(
    component_params: Params,
    x: Any,
    computation: Computation,
    geometry: Geometry,
    batch_size: int | None,
) -> jax.Array:
    """Run a component in tiles that are put together in host memory, one tile after another.

    One compiled program serves images of every size; only full stages are compiled for each.
    """
    where = replicated_sharding(x, component_params)
    component_params = place(component_params)
    decoding = computation.component == "decoder"
    if geometry.full_layers and decoding:
        x = run_full_stages_alone(*place((component_params, x)), computation, geometry)
    x = jax.device_get(x)
    height, width = (size_after(geometry.layers, size) for size in x.shape[1:3])
    shape = (x.shape[0], height, width, geometry.layers[-1].out_channels)
    out = np.empty(shape, jax.dtypes.canonicalize_dtype(computation.dtype))
    n = batch_size or len(x)
    for i in range(0, len(x), n):
        images = x[i : i + n]
        fill = ((0, n - len(images)), *[(0, 0)] * 3)  # a last, smaller batch is filled up
        for (top_in, top), (left_in, left) in itertools.product(
            geometry.starts(height), geometry.starts(width)
        ):
            rows, columns = Extent(top_in, x.shape[1]), Extent(left_in, x.shape[2])
            window = np.pad(_window(images, rows, columns, geometry, np), fill, mode="edge")
            part = jax.device_put((copy_native(window), rows, columns), where)
            tile = _tile(component_params, *part, computation, geometry)
            side = geometry.size_out
            target = out[i : i + n, top : top + side, left : left + side]
            target[...] = jax.device_get(tile)[tuple(map(slice, target.shape))]
    y = jax.device_put(out, where)
    if geometry.full_layers and not decoding:
        y = run_full_stages_alone(component_params, y, computation, geometry)
    return finish(y, computation)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _tile(
    component_params: Params,
    window: jax.Array,
    rows: Extent,
    columns: Extent,
    computation: Computation,
    geometry: Geometry,
) -> jax.Array:
    module = bind(component_params, computation.component, computation.config)
    window = window.astype(computation.dtype)
    return _run_tile(module, window, rows, columns, geometry)


def _window(x: Any, rows: Extent, columns: Extent, geometry: Geometry, xp: Any) -> Any:
    """Cut what a tile reads, (n, s, s, c), out of x; outside the image it repeats the edge."""
    reach = xp.arange(*geometry.spans[0])
    row, column = (xp.clip(at.start + reach, 0, at.size - 1) for at in (rows, columns))
    return x[:, row[:, None], column]


def _run_tile(
    module: Network,
    window: jax.Array,
    rows: Extent,
    columns: Extent,
    geometry: Geometry,
) -> jax.Array:
    """Return the tile at `rows` and `columns` of the image, of side `geometry.size_out`."""
    start = geometry.spans[0].start
    enlarged = [
        span
        for layer, span in zip(geometry.layers, geometry.spans[1:], strict=True)
        if layer.kind == "upsample_conv"
    ]
    cursor = _TileCursor(rows.moved(start), columns.moved(start), iter(enlarged))
    return run_part(cursor, module, window, geometry)


class _TileCursor:
    """A tile's window at the layer it has come to.

    Attributes:
        rows: Where its rows lie.
        columns: Where its columns lie.
        enlarged: What is needed of each enlarged window still to come.
    """

    def __init__(self, rows: Extent, columns: Extent, enlarged: Iterator[Span]):
        self.rows, self.columns, self.enlarged = rows, columns, enlarged

    def convolve(self, conv: Conv | UpsampleConv, x: jax.Array, **options: Any) -> jax.Array:
        x = zero_outside(x, self.rows, self.columns)
        x = conv(x, pad_rows=False, pad_columns=False, **options)
        self.rows, self.columns = self.rows.after(conv), self.columns.after(conv)
        if not isinstance(conv, UpsampleConv):
            return x
        # It gives pairs of rows and columns, of which the first and the last may be one too much.
        start, stop = next(self.enlarged)
        first, size = start % 2, stop - start
        self.rows, self.columns = self.rows.moved(first), self.columns.moved(first)
        return x[:, first : first + size, first : first + size]

    def align_skip(self, x: jax.Array) -> jax.Array:
        return x[:, 3:-3, 3:-3]

"""A strip or tile on its way through the layers of a component: what both have in common."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ..model.convolutions import Conv, UpsampleConv
from ..model.functional import Computation, Params, bind
from ..model.modules import Network, apply_layer, apply_layers, to_unsigned
from .geometry import Geometry


class Extent(NamedTuple):
    """Where a part lies along one axis of the image, in positions of the layer it has come to.

    Place and size are data, so one program serves every part of every image.

    Attributes:
        start: Position of the part's first row or column.
        size: Rows or columns of the image.
    """

    start: Any
    size: Any

    def after(self, conv: Conv | UpsampleConv) -> Extent:
        """Return the extent of the result of a 3x3 convolution without padding."""
        start = self.start + 1
        if isinstance(conv, UpsampleConv):
            return Extent(2 * start, 2 * self.size)
        if conv.stride == 2:
            return Extent(start // 2, (self.size + 1) // 2)
        return Extent(start, self.size)

    def moved(self, by: int) -> Extent:
        """Return the extent of a part that begins `by` positions later."""
        return Extent(self.start + by, self.size)

    def inside(self, length: int) -> jax.Array:
        """Return which of the part's rows or columns lie in the image, (length,) booleans."""
        position = self.start + jnp.arange(length)
        return (position >= 0) & (position < self.size)


def zero_outside(x: jax.Array, rows: Extent, columns: Extent | None = None) -> jax.Array:
    """Set what lies outside the image to zero.

    Zero padding is per layer: biases make padded inputs non-zero one layer later.
    """
    inside = rows.inside(x.shape[1])[None, :, None, None]
    if columns is not None:
        # One selection: with two XLA's CPU compiler multiplies in another order.
        inside = inside & columns.inside(x.shape[2])[None, None, :, None]
    return jnp.where(inside, x, jnp.zeros((), x.dtype))


class Cursor(Protocol):
    """Holds where a part is, and applies what looks beyond its edges."""

    def convolve(self, conv: Conv | UpsampleConv, x: jax.Array, **options: Any) -> jax.Array:
        """Apply a 3x3 convolution to a part; the options are those of the module."""
        ...

    def align_skip(self, x: jax.Array) -> jax.Array:
        """Cut the skip of a block to what the block's three convolutions give."""
        ...


def run_part(cursor: Cursor, module: Network, x: jax.Array, geometry: Geometry) -> jax.Array:
    """Run one part (n, h, w, c) through the layers that run in parts, in the dtype of x."""
    x = to_unsigned(x) if geometry.component == "encoder" else x
    for layer in geometry.layers:
        x = apply_layer(module, layer, x, convolve=cursor.convolve, align_skip=cursor.align_skip)
    return x


def run_full_stages(module: Network, x: jax.Array, geometry: Geometry) -> jax.Array:
    """Run the full stages, if there are any."""
    return apply_layers(module, geometry.full_layers, x)


@functools.partial(jax.jit, static_argnums=(2, 3))
def run_full_stages_alone(
    component_params: Params, x: jax.Array, computation: Computation, geometry: Geometry
) -> jax.Array:
    """Run the full stages as a program of their own; the result has the computation's dtype."""
    module = bind(component_params, computation.component, computation.config)
    return run_full_stages(module, x.astype(computation.dtype), geometry)

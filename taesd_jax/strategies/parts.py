"""A strip or tile on its way through the layers of a component: what both have in common."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..model.convolutions import Conv, UpsampleConv, narrow, widen
from ..model.functional import Computation, Params, bind
from ..model.modules import Decoder, Encoder, apply_layer, apply_layers
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

    def convolve(self, conv: Conv | UpsampleConv, x: jax.Array) -> jax.Array:
        """Apply a 3x3 convolution to a part."""
        ...

    def align_skip(self, x: jax.Array) -> jax.Array:
        """Cut the skip of a block to what the block's three convolutions give."""
        ...


def run_part(
    cursor: Cursor, module: Encoder | Decoder, x: jax.Array, geometry: Geometry, dtype: DTypeLike
) -> jax.Array:
    """Run one part (n, h, w, c) through the layers that run in parts, computing in dtype."""
    x = (widen(x) + 1) / 2 if geometry.component == "encoder" else x
    for layer in geometry.layers:
        x = x if layer.kind == "activation" else narrow(x, dtype)
        if layer.kind == "block":
            block = getattr(module, layer.name)
            x = block(x, convolve=cursor.convolve, wait=cursor.align_skip)
        elif layer.kind in ("conv", "upsample_conv"):
            x = cursor.convolve(getattr(module, layer.name), x)
        else:
            x = apply_layer(module, layer, x)
    return narrow(x * 2 - 1 if geometry.component == "decoder" else x, dtype)


def run_full_stages(
    module: Encoder | Decoder, x: jax.Array, geometry: Geometry, dtype: DTypeLike
) -> jax.Array:
    """Run the full stages, if there are any."""
    return narrow(apply_layers(module, geometry.full_layers, x, dtype), dtype)


@functools.partial(jax.jit, static_argnums=(2, 3))
def run_full_stages_alone(
    component_params: Params, x: jax.Array, computation: Computation, geometry: Geometry
) -> jax.Array:
    """Run the full stages as a program of their own; the result has the computation's dtype."""
    module = bind(component_params, computation.component, computation.config)
    return run_full_stages(module, x.astype(computation.dtype), geometry, computation.dtype)

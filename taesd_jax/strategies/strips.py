"""Strips of rows: exact, nothing computed twice, in memory that does not grow with the height.

Each 3x3 convolution carries the last two rows of its input over to the next strip, and the skip of
a block three, so each layer lags some rows behind the one before it. The first strip is taller by
the total lag, so that every strip that comes out has its full height.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..model.convolutions import Conv, UpsampleConv
from ..model.modules import Network
from .geometry import Geometry, size_after
from .parts import Extent, run_part, zero_outside

Carry = list[jax.Array]


def run_strips(module: Network, x: jax.Array, geometry: Geometry) -> jax.Array:
    """Run the layers that run in parts on x (n, h, w, c), one strip after another."""
    height = size_after(geometry.layers, x.shape[1])  # of the result

    def run(top: Any, rows: int, carry: Carry | None) -> tuple[jax.Array, Carry]:
        strip = jnp.take(x, top + jnp.arange(rows), axis=1, mode="clip")
        return run_strip(module, strip, Extent(top, x.shape[1]), carry, geometry)

    first_rows = geometry.spans[0].stop
    strip, carry = run(0, first_rows, None)
    n, done, w, c = strip.shape
    steps = -((done - height) // geometry.size_out)
    if steps <= 0:
        return strip[:, :height]

    def body(step: Any, state: tuple[jax.Array, Carry]) -> tuple[jax.Array, Carry]:
        out, carry = state
        strip, carry = run(first_rows + step * geometry.size_in, geometry.size_in, carry)
        top = done + step * geometry.size_out
        return lax.dynamic_update_slice_in_dim(out, strip, top, axis=1), carry

    more = jnp.zeros((n, steps * geometry.size_out, w, c), strip.dtype)
    out, _ = lax.fori_loop(0, steps, body, (jnp.concatenate([strip, more], axis=1), carry))
    return out[:, :height]


def run_strip(
    module: Network,
    x: jax.Array,
    rows: Extent,
    carry: Sequence[jax.Array] | None,
    geometry: Geometry,
) -> tuple[jax.Array, Carry]:
    """Run a strip x (n, rows, w, c) with the carry of the strip before, None for the first.

    Rows below the image may hold anything finite. Return a strip of the result and its carry.
    """
    cursor = _StripCursor(rows, carry)
    return run_part(cursor, module, x, geometry), cursor.carry


class _StripCursor:
    """A strip at the layer it has come to.

    Attributes:
        rows: Where its rows lie.
        carry: What each layer passed so far carries over to the next strip, in order.
    """

    def __init__(self, rows: Extent, carry: Sequence[jax.Array] | None):
        self.rows = rows
        self.carry: Carry = []
        self._carried = None if carry is None else iter(carry)

    def convolve(self, conv: Conv | UpsampleConv, x: jax.Array, **options: Any) -> jax.Array:
        x = zero_outside(x, self.rows)
        carried = self._pop_carry(x, 1)  # above the image is one row of zeros
        x = jnp.concatenate([carried, x], axis=1)
        stride = 1 if isinstance(conv, UpsampleConv) else conv.stride
        outputs = (x.shape[1] - 3) // stride + 1
        self.carry.append(x[:, outputs * stride :])
        self.rows = self.rows.moved(-carried.shape[1]).after(conv)
        return conv(x, pad_rows=False, **options)

    def align_skip(self, x: jax.Array) -> jax.Array:
        # The block's three convolutions have not come to the last three rows.
        x = jnp.concatenate([self._pop_carry(x, 0), x], axis=1)
        self.carry.append(x[:, -3:])
        return x[:, :-3]

    def _pop_carry(self, x: jax.Array, rows: int) -> jax.Array:
        """Return the rows carried from the strip before, or that many zeros if there is none."""
        if self._carried is not None:
            return next(self._carried)
        return jnp.zeros((x.shape[0], rows, *x.shape[2:]), x.dtype)

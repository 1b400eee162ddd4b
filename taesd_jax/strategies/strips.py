"""Strips of rows on their way through a half's layers: the arithmetic of exact row streaming.

A convolution needs two rows more than it gives. So every convolution keeps the last two rows of its
input, a block's skip keeps three, and each layer runs some rows behind the one before it. Nothing
is computed twice. The first strip is taller by what the layers run behind, so that every strip that
leaves is full. Rows below the image are set to zero before each convolution, because zero padding
is per layer: biases make padded inputs non-zero one layer later.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.convolutions import Conv, UpsampleConv
from ..model.layers import Half, Layer, changes_size, split_layers
from ..model.modules import Decoder, Encoder, apply_layer, to_unsigned


class Plan(NamedTuple):
    """How a half is streamed.

    Attributes:
        whole: Stages at the latent's end that run on the whole image: they are cheap, and running
            them whole shortens the delay and with it the rows computed beyond the end. 0 streams
            every layer; stages with a GroupNorm over the image have to run whole.
        rows: Rows of a strip, counted where the streamed stages meet the whole ones.
    """

    whole: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Stream:
    """One streamed run: its layers and sizes, all known before it starts.

    Attributes:
        half: Which half.
        config: Its architecture.
        plan: How to stream it.
        height: Rows of the image where it enters the streamed layers.
    """

    half: Half
    config: AutoencoderTinyConfig
    plan: Plan
    height: int

    @functools.cached_property
    def parts(self) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
        """The whole and the streamed layers; in an encoder the streamed ones run first."""
        return split_layers(self.half, self.config, self.plan.whole)

    @functools.cached_property
    def scale(self) -> int:
        """Size ratio between the two ends of the streamed layers."""
        return 2 ** sum(map(changes_size, self.parts[1]))

    @property
    def rows_in(self) -> int:
        """Rows of a strip that enters, after the first."""
        return self.plan.rows * (1 if self.half == "decoder" else self.scale)

    @property
    def rows_out(self) -> int:
        """Rows of a strip that leaves, after the first."""
        return self.plan.rows * (self.scale if self.half == "decoder" else 1)

    @functools.cached_property
    def first_in(self) -> int:
        """Rows of the first strip that enters."""
        rows = self.rows_in
        while _rows_of_first(self.parts[1], rows) < self.rows_out:
            rows += 1
        return rows

    @functools.cached_property
    def first_out(self) -> int:
        """Rows of the first strip that leaves."""
        return _rows_of_first(self.parts[1], self.first_in)

    @functools.cached_property
    def height_out(self) -> int:
        """Rows of the image where it leaves the streamed layers."""
        return height_after(self.parts[1], self.height)

    @property
    def steps(self) -> int:
        """Strips after the first."""
        return max(0, -((self.first_out - self.height_out) // self.rows_out))

    def rows_of(self, step: Any, *, first: bool) -> tuple[Any, int]:
        """Return the first row and the number of rows of a strip that enters."""
        return (0, self.first_in) if first else (self.first_in + step * self.rows_in, self.rows_in)

    def run(
        self,
        module: Encoder | Decoder,
        x: jax.Array,
        top: Any,
        kept: Sequence[jax.Array] | None,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Run one strip.

        Args:
            module: The half.
            x: The strip. Rows below the image may hold anything finite: they are set to zero.
            top: Row that it begins at.
            kept: What the strip before returned, or None for the first.
            dtype: Dtype of the computation.

        Returns:
            A strip of the result, and the rows that the next one needs.
        """
        x = to_unsigned(x) if self.half == "encoder" else x
        walk = _Walk(top, self.height, kept)
        for layer in self.parts[1]:
            x = apply_layer(module, layer, x, convolve=walk.convolve, align_skip=walk.wait)
        return x, walk.kept


def height_after(layers: Sequence[Layer], height: int) -> int:
    """Return how many rows layers make of so many."""
    for layer in layers:
        if layer.kind == "upsample_conv":
            height *= 2
        elif layer.stride == 2:
            height = -(-height // 2)
    return height


def _rows_of_first(layers: Sequence[Layer], rows: int) -> int:
    """Return how many rows layers make of the first strip, whose rows below are not known yet."""
    for layer in layers:
        if layer.kind == "upsample_conv":
            rows = 2 * (rows - 1)
        elif layer.stride == 2:
            rows //= 2
        elif layer.kind in ("conv", "block"):
            rows -= 3 if layer.kind == "block" else 1
    return rows


class _Walk:
    """A strip on its way through the layers.

    Attributes:
        top: Row of the image, at this layer, at which the strip begins.
        height: Rows of the image at this layer.
        kept: What each layer keeps for the next strip, in the order of the layers.
    """

    def __init__(self, top: Any, height: int, kept: Sequence[jax.Array] | None):
        self.top, self.height = top, height
        self.kept: list[jax.Array] = []
        self._old = None if kept is None else iter(kept)

    def convolve(self, conv: Conv | UpsampleConv, x: jax.Array, **options: Any) -> jax.Array:
        rows = x.shape[1]
        x = self.inside(x)
        # Above the image is one row of zeros.
        x = jnp.concatenate([self.old(x, 1), x], axis=1)
        self.top = self.top + rows - x.shape[1] + 1  # row that the first output lies on
        if isinstance(conv, UpsampleConv):
            self.kept.append(x[:, -2:])
            self.top, self.height = 2 * self.top, 2 * self.height
        elif conv.stride == 2:
            made = (x.shape[1] - 1) // 2
            self.kept.append(x[:, 2 * made :])
            self.top, self.height = self.top // 2, -(-self.height // 2)
        else:
            self.kept.append(x[:, -2:])
        return conv(x, pad_rows=False, **options)

    def wait(self, x: jax.Array) -> jax.Array:
        """Hold back the three rows that the block's convolutions have not come to."""
        x = jnp.concatenate([self.old(x, 0), x], axis=1)
        self.kept.append(x[:, -3:])
        return x[:, :-3]

    def old(self, x: jax.Array, rows: int) -> jax.Array:
        """Return the rows kept from the strip before, or that many zeros if there is none."""
        if self._old is not None:
            return next(self._old)
        return jnp.zeros((x.shape[0], rows, *x.shape[2:]), x.dtype)

    def inside(self, x: jax.Array) -> jax.Array:
        """Set the rows below the image to zero."""
        row = self.top + jnp.arange(x.shape[1])
        return jnp.where((row < self.height)[None, :, None, None], x, jnp.zeros((), x.dtype))

"""Strips of rows on their way through a half's layers: the arithmetic of exact row streaming.

A convolution needs two rows more than it gives. So every convolution keeps the last two rows of its
input, a block's skip keeps three, and each layer runs some rows behind the one before it. Nothing
is computed twice. Rows outside the image are set to zero before each convolution, because zero
padding is per layer: biases make padded inputs non-zero one layer later.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .blocks import Conv, UpsampleConv, narrow, widen
from .config import AutoencoderTinyConfig
from .layers import Half, Layer, changes_size, split_layers
from .modules import Decoder, Encoder, apply_layer


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
        height: Rows of its input, the latent or the image.
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
        """Rows of a strip that enters."""
        return self.plan.rows * (1 if self.half == "decoder" else self.scale)

    @property
    def rows_out(self) -> int:
        """Rows of a strip that leaves."""
        return self.plan.rows * (self.scale if self.half == "decoder" else 1)

    @functools.cached_property
    def height_in(self) -> int:
        """Rows of the image where it enters the streamed layers."""
        before = self.parts[0] if self.half == "decoder" else ()
        return self.height * 2 ** sum(map(changes_size, before))

    @functools.cached_property
    def _end(self) -> tuple[int, int]:
        height, delay = self.height_in, 0
        for layer in self.parts[1]:
            if layer.kind == "upsample_conv":
                height, delay = 2 * height, 2 * delay + 2
            elif layer.stride == 2:
                height, delay = -(-height // 2), -(-delay // 2)
            elif layer.kind in ("conv", "block"):
                delay += 3 if layer.kind == "block" else 1
        return height, delay

    @property
    def height_out(self) -> int:
        """Rows of the image where it leaves the streamed layers."""
        return self._end[0]

    @property
    def wait(self) -> int:
        """Rows that the result waits, so that it comes in whole strips of the image."""
        return -self._end[1] % self.rows_out

    @property
    def first(self) -> int:
        """Step whose result is the first strip of the image."""
        return (self._end[1] + self.wait) // self.rows_out

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.first - (-self.height_out // self.rows_out)

    def run(
        self,
        module: Encoder | Decoder,
        x: jax.Array,
        step: Any,
        kept: Sequence[jax.Array] | None,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Run one step.

        Args:
            module: The half.
            x: The streamed layers' whole input.
            step: Which strip of it; the last steps only empty what is on its way.
            kept: What the step before returned, or None at the first.
            dtype: Dtype of the computation.

        Returns:
            A strip of the result, and the rows that the next step needs.
        """
        # Rows below the image repeat its last one, and are set to zero before any convolution.
        x = jnp.take(x, step * self.rows_in + jnp.arange(self.rows_in), axis=1, mode="clip")
        x = (widen(x) + 1) / 2 if self.half == "encoder" else x
        walk = _Walk(step, self.rows_in, self.height_in, kept)
        for layer in self.parts[1]:
            x = walk.apply(module, layer, x if layer.kind == "activation" else narrow(x, dtype))
        x = narrow(x * 2 - 1 if self.half == "decoder" else x, dtype)
        if self.wait:
            x = walk.push(x, self.wait)[:, : self.rows_out]
        return x, walk.kept


class _Walk:
    """A strip on its way through the layers.

    Attributes:
        step: Number of the strip.
        rows: Rows of a strip at this layer.
        height: Rows of the image at this layer.
        delay: How many rows the strip lies above the one that its number names.
        kept: What each layer keeps for the next strip, in the order of the layers.
    """

    def __init__(self, step: Any, rows: int, height: int, kept: Sequence[jax.Array] | None):
        self.step, self.rows, self.height, self.delay = step, rows, height, 0
        self.kept: list[jax.Array] = []
        self._old = None if kept is None else iter(kept)

    def apply(self, module: Encoder | Decoder, layer: Layer, x: jax.Array) -> jax.Array:
        if layer.kind == "block":
            block = getattr(module, layer.name)
            return block(x, convolve=self.convolve, wait=lambda x: self.push(x, 3)[:, :-3])
        if layer.kind in ("conv", "upsample_conv"):
            return self.convolve(getattr(module, layer.name), x)
        return apply_layer(module, layer, x)

    def convolve(self, conv: Conv | UpsampleConv, x: jax.Array) -> jax.Array:
        x = self.inside(x)
        if isinstance(conv, UpsampleConv):
            y = conv(self.push(x, 2), pad_rows=False)
            self.delay, self.rows, self.height = 2 * self.delay + 2, 2 * self.rows, 2 * self.height
        elif conv.stride == 2:
            if self.delay % 2:  # the next output needs an even row first
                x, self.delay = self.push(x, 1)[:, :-1], self.delay + 1
            y = conv(self.push(x, 1), pad_rows=False)
            self.delay, self.rows = self.delay // 2, self.rows // 2
            self.height = -(-self.height // 2)
        else:
            y = conv(self.push(x, 2), pad_rows=False)
            self.delay += 1
        return y

    def push(self, x: jax.Array, rows: int) -> jax.Array:
        """Put the kept rows above x and keep the last ones of both."""
        n, _, w, c = x.shape
        old = jnp.zeros((n, rows, w, c), x.dtype) if self._old is None else next(self._old)
        x = jnp.concatenate([old, x], axis=1)
        self.kept.append(x[:, -rows:])
        return x

    def inside(self, x: jax.Array) -> jax.Array:
        """Set the rows outside the image to zero."""
        row = self.step * self.rows - self.delay + jnp.arange(x.shape[1])
        keep = ((row >= 0) & (row < self.height))[None, :, None, None]
        return jnp.where(keep, x, jnp.zeros((), x.dtype))

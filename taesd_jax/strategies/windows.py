"""Windows on their way through a half's layers: the arithmetic of exact tiles.

A window brings the context that its result depends on, and every convolution without padding leaves
it smaller. What lies outside the image is set to zero before each convolution, because zero padding
is per layer. Place and size of the image are data, so one program serves every window of every
image.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.convolutions import Conv, UpsampleConv
from ..model.layers import Half, Layer, changes_size, split_layers
from ..model.modules import Decoder, Encoder, apply_layer, to_unsigned

# Side of a tile in latents.
TILE = 64


class Span(NamedTuple):
    """Positions start to stop along one dimension, counted from where the tile begins."""

    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The geometry of one tile; the same in both dimensions.

    Attributes:
        half: Which half.
        config: Its architecture.
        whole: Stages at the latent's end that run on the whole image.
        tile: Side of what a tile gives, in positions where the tiled layers meet the whole ones.
    """

    half: Half
    config: AutoencoderTinyConfig
    whole: int
    tile: int

    @classmethod
    def of(cls, half: Half, config: AutoencoderTinyConfig, tile: int) -> Tiling:
        """Make the tiling of a half for tiles of that many latents."""
        # A GroupNorm needs its stage whole, and an encoder's begins at twice the latent's size.
        whole = int(config.pool_channels > 0)
        side = tile * (2 if whole and half == "encoder" else 1)
        return cls(half, config.architecture, whole, side)

    @property
    def whole_layers(self) -> tuple[Layer, ...]:
        """The layers that run on the whole image."""
        return split_layers(self.half, self.config, self.whole)[0]

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The tiled layers."""
        return split_layers(self.half, self.config, self.whole)[1]

    @functools.cached_property
    def scale(self) -> int:
        """Size ratio between the two ends of the tiled layers."""
        return 2 ** sum(map(changes_size, self.layers))

    @property
    def side_in(self) -> int:
        """Side of the part of the input that belongs to the tile, without context."""
        return self.tile * (1 if self.half == "decoder" else self.scale)

    @property
    def side_out(self) -> int:
        """Side of what a tile gives."""
        return self.tile * (self.scale if self.half == "decoder" else 1)

    def size_out(self, size: int) -> int:
        """Return how long the result of an input of that length is."""
        return size * self.scale if self.half == "decoder" else -(-size // self.scale)

    @functools.cached_property
    def spans(self) -> tuple[Span, ...]:
        """What each layer reads, in its own input's positions, and last what the tile gives."""
        spans = [Span(0, self.side_out)]
        for layer in reversed(self.layers):
            start, stop = spans[-1]
            if layer.kind == "upsample_conv":
                start, stop = start // 2 - 1, -(-stop // 2) + 1
            elif layer.stride == 2:
                start, stop = 2 * start - 1, 2 * stop
            elif layer.kind in ("conv", "block"):
                context = 3 if layer.kind == "block" else 1
                start, stop = start - context, stop + context
            spans.append(Span(start, stop))
        return tuple(reversed(spans))

    def run(
        self,
        module: Encoder | Decoder,
        x: jax.Array,
        place: jax.Array,
        size: jax.Array,
        dtype: DTypeLike,
    ) -> jax.Array:
        """Compute one tile.

        Args:
            module: The half.
            x: The window (n, s, s, c) that `spans[0]` cuts out around the tile.
            place: Row and column of the input at which the tile begins.
            size: Rows and columns of the input.
            dtype: Dtype of the computation.

        Returns:
            The tile (n, side_out, side_out, c).
        """
        x = to_unsigned(x) if self.half == "encoder" else x
        window = _Window(place, size)
        for layer, (start, _), (first, last) in zip(
            self.layers, self.spans[:-1], self.spans[1:], strict=True
        ):
            window.start = start
            x = apply_layer(
                module,
                layer,
                x,
                convolve=window.convolve,
                align_skip=lambda x: x[:, 3:-3, 3:-3],
            )
            top = first - window.start  # an upsample gives pairs, of which one may be too much
            x = x[:, top : top + last - first, top : top + last - first]
        return x


class _Window:
    """Where a window lies in the image at the layer it has come to.

    Attributes:
        place: Row and column at which the tile begins.
        size: Rows and columns of the image.
        start: First row and column of the window, counted from `place`.
    """

    def __init__(self, place: jax.Array, size: jax.Array):
        self.place, self.size, self.start = place, size, 0

    def convolve(self, conv: Conv | UpsampleConv, x: jax.Array, **options: Any) -> jax.Array:
        y = conv(self.inside(x), pad_rows=False, pad_columns=False, **options)
        self.start += 1
        if isinstance(conv, UpsampleConv):
            self.start, self.place, self.size = 2 * self.start, 2 * self.place, 2 * self.size
        elif conv.stride == 2:
            self.start, self.place = self.start // 2, self.place // 2
            self.size = (self.size + 1) // 2
        return y

    def inside(self, x: jax.Array) -> jax.Array:
        """Set what lies outside the image to zero."""
        place = self.place[:, None] + self.start + jnp.arange(x.shape[1])[None]
        rows, columns = (place >= 0) & (place < self.size[:, None])  # (s,), (s,)
        keep = (rows[:, None] & columns[None])[None, :, :, None]
        return jnp.where(keep, x, jnp.zeros((), x.dtype))

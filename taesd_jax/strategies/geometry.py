"""The one geometry of strips and tiles: what a part of an image reads, and what it gives.

All sizes follow from the list of layers and are the same in both dimensions. Everything is plain
integers, known before anything is compiled.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from ..config import AutoencoderTinyConfig
from ..model.layers import Component, Layer, is_resampling, split_layers
from .strategy import Strips, Tiles, min_full_stages

# 3x3 convolutions of a layer, each of which needs one row of context on either side.
_CONVOLUTIONS = {"conv": 1, "upsample_conv": 1, "block": 3}


class Span(NamedTuple):
    """Positions start to stop along one axis, counted from where a part begins."""

    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The sizes of one part, a strip or a tile.

    Attributes:
        component: "encoder" or "decoder".
        config: Its architecture.
        full_stages: Stages nearest the latent that run on the full image; the other layers run in
            parts.
        size: Length of a part where its layers meet the full stages.
    """

    component: Component
    config: AutoencoderTinyConfig
    full_stages: int
    size: int

    @classmethod
    def of(
        cls, strategy: Strips | Tiles, component: Component, config: AutoencoderTinyConfig
    ) -> Geometry:
        """Return the geometry of a resolved strategy."""
        if isinstance(strategy, Strips):
            assert strategy.full_stages is not None
            assert strategy.rows is not None
            return cls(component, config.architecture, strategy.full_stages, strategy.rows)
        full_stages = min_full_stages(config)
        full_layers, _ = split_layers(component, config, full_stages)
        return cls(component, config.architecture, full_stages, strategy.size * _ratio(full_layers))

    @functools.cached_property
    def full_layers(self) -> tuple[Layer, ...]:
        """The layers of the full stages: a decoder's first or an encoder's last."""
        return split_layers(self.component, self.config, self.full_stages)[0]

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that run in parts."""
        return split_layers(self.component, self.config, self.full_stages)[1]

    @property
    def size_in(self) -> int:
        """Length of the input that belongs to a part, without context."""
        return self.size * (1 if self.component == "decoder" else _ratio(self.layers))

    @property
    def size_out(self) -> int:
        """Length of what a part gives."""
        return self.size * (_ratio(self.layers) if self.component == "decoder" else 1)

    @functools.cached_property
    def spans(self) -> tuple[Span, ...]:
        """What each layer reads, in positions of its own input, and last what the part gives."""
        spans = [Span(0, self.size_out)]
        for layer in reversed(self.layers):
            start, stop = spans[-1]
            context = _CONVOLUTIONS.get(layer.kind, 0)
            if layer.kind == "upsample_conv":
                start, stop = start // 2, -(-stop // 2)
            elif layer.stride == 2:
                start, stop = 2 * start, 2 * stop - 1
            spans.append(Span(start - context, stop + context))
        return tuple(reversed(spans))

    def starts(self, length: int) -> list[tuple[int, int]]:
        """List where parts begin along a result of that length: in the input and in the result.

        The last part ends where the result does, so it may overlap the one before.
        """
        last = max(0, length - self.size_out)
        starts = [min(start, last) for start in range(0, length, self.size_out)]
        return [(start * self.size_in // self.size_out, start) for start in starts]

    def begin_for(self, row: int) -> tuple[int, int]:
        """Return the input row to begin at so that row `row` of the result is right.

        The second value is the row of the result that lies there.
        """
        margin = -(self.spans[0].start * self.size // self.size_in)
        begin = max(0, row * self.size // self.size_out - margin)
        return begin * self.size_in // self.size, begin * self.size_out // self.size


def size_after(layers: Sequence[Layer], size: int) -> int:
    """Return the length that layers make of an input of that length."""
    for layer in layers:
        if layer.kind == "upsample_conv":
            size *= 2
        elif layer.stride == 2:
            size = -(-size // 2)
    return size


def carried_rows(layer: Layer) -> int:
    """Count the rows that a layer in strips carries over to the next strip, of all activations.

    Each convolution carries the last two of its input, the skip of a block the last three.
    """
    return 2 * _CONVOLUTIONS.get(layer.kind, 0) + (3 if layer.kind == "block" else 0)


def _ratio(layers: Sequence[Layer]) -> int:
    return 2 ** sum(map(is_resampling, layers))

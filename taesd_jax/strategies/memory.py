"""The memory that a strategy takes beside params, input and result: arithmetic, nothing measured.

XLA's own counts (`memory_analysis`) stay below these estimates, for every variant and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..config import AutoencoderTinyConfig
from ..model.layers import Component, Layer, build_layers
from .geometry import Geometry, carried_rows, size_after
from .strategy import Full, Strategy, Tiles

# What XLA holds at a time, in float32 activations of the largest layer.
_FULL = 4.0  # of a component that runs in full
_FULL_STAGES = 6.0  # of full stages beside strips or tiles
_PART = 4.5  # of a strip or tile

Size = tuple[int, int]


def estimate_bytes(
    strategy: Strategy, component: Component, size: Size, config: AutoencoderTinyConfig
) -> int:
    """Estimate the temporaries of a resolved strategy, for one float32 input of that size."""
    if isinstance(strategy, Full):
        return int(_FULL * _largest(build_layers(component, config), size))
    geometry = Geometry.of(strategy, component, config)
    decoding, layers = component == "decoder", geometry.layers
    start = _after(geometry.full_layers, size) if decoding else size  # of what runs in parts
    stop = _after(layers, start)
    full_stages = _FULL_STAGES * _largest(geometry.full_layers, size if decoding else stop)
    if isinstance(strategy, Tiles):
        side = geometry.spans[0].stop - geometry.spans[0].start
        return int(full_stages + _PART * _largest(layers, (side, side)))
    strip = (geometry.size_in, start[1])
    carry = sum(
        4 * carried_rows(layer) * width * layer.in_channels
        for layer, (_, width) in _walk(layers, strip)
    )
    z, c = layers[0].in_channels, layers[-1].out_channels
    features = 4 * math.prod(start) * z if decoding else 4 * math.prod(stop) * c
    strips = features + _PART * _largest(layers, strip) + carry
    ends = 4 * (math.prod(size) * z + math.prod(stop) * c)  # input and result, as copies
    return int(2 * ends + max(full_stages, strips))


def _largest(layers: Sequence[Layer], size: Size) -> int:
    """Return the bytes of the largest float32 activation of layers that begin with that size."""
    sizes = ((layer, _after((layer,), before)) for layer, before in _walk(layers, size))
    return max((4 * math.prod(after) * layer.out_channels for layer, after in sizes), default=0)


def _walk(layers: Sequence[Layer], size: Size) -> Iterator[tuple[Layer, Size]]:
    """Yield each layer and the size that it begins with."""
    for layer in layers:
        yield layer, size
        size = _after((layer,), size)


def _after(layers: Sequence[Layer], size: Size) -> Size:
    return size_after(layers, size[0]), size_after(layers, size[1])

"""Estimates of the memory that a half takes beside params, input and result; arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..config import AutoencoderTinyConfig
from ..model.layers import Half, Layer, changes_size, layers_of, split_layers
from .strips import Plan, height_after
from .windows import Tiling

# What XLA holds at a time, in float32 activations of the largest layer: of a half that runs whole,
# of whole stages beside streamed ones, of a strip or tile. Its own counts (`memory_analysis`) stay
# below the sums made with these, for every variant, half and dtype.
_WHOLE, _STAGES, _PART = 4.0, 6.0, 4.5


def whole_bytes(half: Half, size: tuple[int, int], config: AutoencoderTinyConfig) -> int:
    """Estimate for one image of that size, run whole."""
    return int(_WHOLE * _largest(layers_of(half, config), size))


def streamed_bytes(
    half: Half, size: tuple[int, int], config: AutoencoderTinyConfig, plan: Plan
) -> int:
    """Estimate for one image of that size, streamed."""
    whole, rest = split_layers(half, config, plan.whole)
    scale = 2 ** sum(map(changes_size, rest))
    if half == "decoder":
        start = size
        meeting = _after(whole, size)
        strip = (plan.rows, meeting[1])
        result, features = _after(rest, meeting), rest[0].in_channels
    else:
        start = meeting = _after(rest, size)
        strip = (plan.rows * scale, size[1])
        result, features = meeting, rest[-1].out_channels
    kept = sum(
        _kept_rows(layer) * at[1] * 4 * layer.in_channels for layer, at in _walk(rest, strip)
    )
    streaming = 4 * math.prod(meeting) * features + _PART * _largest(rest, strip) + kept
    ends = math.prod(size) * rest[0].in_channels + math.prod(result) * rest[-1].out_channels
    return int(2 * 4 * ends + max(_STAGES * _largest(whole, start), streaming))


def tiled_bytes(half: Half, size: tuple[int, int], config: AutoencoderTinyConfig, tile: int) -> int:
    """Estimate for one image of that size, in tiles one at a time."""
    tiling = Tiling.of(half, config, tile)
    side = tiling.spans[0].stop - tiling.spans[0].start
    start = size if half == "decoder" else _after(tiling.layers, size)
    whole = _STAGES * _largest(tiling.whole_layers, start)
    return int(whole + _PART * _largest(tiling.layers, (side, side)))


def _largest(layers: tuple[Layer, ...], size: tuple[int, int]) -> int:
    """Return the bytes of the largest float32 activation of layers that begin with that size."""
    sizes = ((layer, _after((layer,), before)) for layer, before in _walk(layers, size))
    return max((4 * math.prod(after) * layer.out_channels for layer, after in sizes), default=0)


def _kept_rows(layer: Layer) -> int:
    return {"block": 9, "conv": 2, "upsample_conv": 2}.get(layer.kind, 0)


def _walk(
    layers: tuple[Layer, ...], size: tuple[int, int]
) -> Iterator[tuple[Layer, tuple[int, int]]]:
    """Yield each layer and the size that it begins with."""
    for layer in layers:
        yield layer, size
        size = _after((layer,), size)


def _after(layers: tuple[Layer, ...], size: tuple[int, int]) -> tuple[int, int]:
    return height_after(layers, size[0]), height_after(layers, size[1])

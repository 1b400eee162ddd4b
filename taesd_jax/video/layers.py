"""Each component of a video model as one flat list of layers; needs no jax.

The list is the single description of the architecture: the forward pass, the memory, the names of
tensors and the recognition of checkpoints are derived from it. Indices are those of the published
`nn.Sequential`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from ..model.layers import Component
from .config import VideoConfig

TO_SIGNED = "to_signed"


@dataclasses.dataclass(frozen=True)
class ConvPart:
    """One convolution of a layer.

    Attributes:
        name: Published name below the layer's index, "" where the layer is the convolution.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        size: Side of the kernel; padding keeps the size at stride 1.
        stride: Step between outputs.
        groups: Groups of channels that are convolved apart.
        bias: Whether it has a bias.
        activation: Activation after it, or None; "to_signed" maps [0, 1] to [-1, 1].
    """

    name: str
    in_channels: int
    out_channels: int
    size: int = 3
    stride: int = 1
    groups: int = 1
    bias: bool = True
    activation: str | None = None


@dataclasses.dataclass(frozen=True)
class VideoLayer:
    """One layer of a component.

    Attributes:
        index: Position in the published sequence.
        kind: What is done; "memory_block" also reads its input of the frame before, "time_pool"
            merges `factor` frames into one, and "time_grow" makes `factor` frames of one.
        convs: Its convolutions, in order; of a memory block the last adds the block's input.
        factor: Frames of a "time_pool" or "time_grow"; side of the squares of a "pixel_shuffle".
        activation: That of an "activation".
        channels: Channels of the input of a memory block, which is what it remembers.
    """

    index: int
    kind: Literal[
        "clamp",
        "activation",
        "conv",
        "upsample_conv",
        "pixel_shuffle",
        "memory_block",
        "time_pool",
        "time_grow",
    ]
    convs: tuple[ConvPart, ...] = ()
    factor: int = 1
    activation: str = ""
    channels: int = 0

    @property
    def name(self) -> str:
        """Key in params and in the state."""
        return f"layers_{self.index}"


def build_layers(component: Component, config: VideoConfig) -> tuple[VideoLayer, ...]:
    """List the layers of a component, input first.

    >>> [layer.index for layer in build_layers("decoder", VideoConfig())]
    [0, 1, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 19, 20, 21, 22]
    """
    if component == "encoder":
        return tuple(_encoder(config))
    return tuple(_super_decoder(config) if config.block_style == "super" else _decoder(config))


def _encoder(config: VideoConfig) -> Iterator[VideoLayer]:
    width, act = config.encoder_channels, config.act_fn
    yield _conv(0, 3 * config.patch_size**2, width, activation=act)
    index = 2
    for pool in config.time_pool:
        merge = ConvPart("conv", pool * width, width, 1, bias=False)
        yield VideoLayer(index, "time_pool", (merge,), factor=pool)
        yield _conv(index + 1, width, width, stride=2, bias=False)
        yield from _blocks(index + 2, "base", width, config)
        index += 2 + config.num_blocks
    yield _conv(index, width, config.latent_channels)


def _decoder(config: VideoConfig) -> Iterator[VideoLayer]:
    widths, act = config.decoder_channels, config.act_fn
    yield VideoLayer(0, "clamp")
    yield _conv(1, config.latent_channels, widths[0], activation=act)
    index = 3
    for width, next_width, grow in zip(widths, widths[1:], config.time_grow, strict=False):
        yield from _blocks(index, config.block_style, width, config)
        index += config.num_blocks
        # Published with the upsample, `index`, before it. A 1x1 convolution without bias and an
        # upsample by nearest neighbour commute, and this way round it is done at a quarter of the
        # pixels.
        yield _time_grow(index + 1, width, grow)
        part = ConvPart("", width, next_width, bias=False)
        yield VideoLayer(index + 2, "upsample_conv", (part,))
        index += 3
    yield VideoLayer(index, "activation", activation=act)
    yield _to_image(index + 1, config)


def _super_decoder(config: VideoConfig) -> Iterator[VideoLayer]:
    widths, act = config.decoder_channels, config.act_fn
    yield _conv(0, config.latent_channels, widths[0], 1, bias=False)
    index = 1
    for width, next_width, grow in zip(widths, widths[1:], config.time_grow, strict=False):
        yield from _blocks(index, "super", width, config)
        index += config.num_blocks
        yield _conv(index, width, 4 * next_width, activation=act)
        yield VideoLayer(index + 2, "pixel_shuffle", factor=2)
        yield _time_grow(index + 3, next_width, grow)
        index += 4
    yield _to_image(index, config)


def _blocks(index: int, style: str, width: int, config: VideoConfig) -> Iterator[VideoLayer]:
    make = {"base": _base_block, "super": _super_block, "wide": _wide_block}[style]
    for i in range(config.num_blocks):
        yield VideoLayer(index + i, "memory_block", make(width, config), channels=width)


def _base_block(n: int, config: VideoConfig) -> tuple[ConvPart, ...]:
    act = config.act_fn
    return (
        ConvPart("conv.0", 2 * n, n, activation=act),
        ConvPart("conv.2", n, n, activation=act),
        ConvPart("conv.4", n, n, activation=act),
    )


def _super_block(n: int, config: VideoConfig) -> tuple[ConvPart, ...]:
    return (
        ConvPart("conv.0", 2 * n, 2 * n, 7, groups=2 * n, bias=False),
        ConvPart("conv.1", 2 * n, 4 * n, 1, activation=config.act_fn),
        ConvPart("conv.3", 4 * n, n, 1, bias=False),
    )


def _wide_block(n: int, config: VideoConfig) -> tuple[ConvPart, ...]:
    act, groups = config.act_fn, n // config.group_channels
    return (
        ConvPart("conv.0", 2 * n, n, 1, activation=act),
        ConvPart("conv.2", n, n, groups=groups, activation=act),
        ConvPart("conv.4", n, n, 1, activation=act),
        ConvPart("conv.6", n, n, groups=groups, activation=act),
    )


def _conv(
    index: int,
    in_channels: int,
    out_channels: int,
    size: int = 3,
    *,
    stride: int = 1,
    bias: bool = True,
    activation: str | None = None,
) -> VideoLayer:
    part = ConvPart(
        "", in_channels, out_channels, size, stride=stride, bias=bias, activation=activation
    )
    return VideoLayer(index, "conv", (part,))


def _time_grow(index: int, width: int, factor: int) -> VideoLayer:
    part = ConvPart("conv", width, factor * width, 1, bias=False)
    return VideoLayer(index, "time_grow", (part,), factor=factor)


def _to_image(index: int, config: VideoConfig) -> VideoLayer:
    activation = None if config.signed_images else TO_SIGNED
    width = config.decoder_channels[-1]
    return _conv(index, width, 3 * config.patch_size**2, activation=activation)

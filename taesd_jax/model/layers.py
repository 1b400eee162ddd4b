"""Each component of a model as one flat list of layers; needs no jax.

The list is the single description of the architecture: the forward pass, the names of tensors in
every format and the recognition of checkpoints are derived from it. Its order and indices are those
of the published `nn.Sequential`; an upsample is merged into the convolution after it, an activation
into the convolution before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from ..config import AutoencoderTinyConfig

Component = Literal["encoder", "decoder"]
COMPONENTS: tuple[Component, Component] = ("encoder", "decoder")

# {"encoder": ..., "decoder": ..., "thumbnails": ...}, or what is below one of these keys. A
# component is {"layers_0": {"kernel": (3, 3, in, out), "bias": (out,)}, ...}.
Params = dict[str, Any]

# GroupNorm of the pooled branch in taef2's blocks.
POOL_GROUPS = 4
POOL_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a component.

    Attributes:
        index: Position in the published sequence; for "upsample_conv" that of the convolution.
        kind: "clamp" is tanh(x / 3) * 3; "conv" and "upsample_conv" are 3x3 with zero padding 1.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 2 for a layer that downsamples.
        bias: Whether a convolution has a bias.
        activation: Activation after a "conv", or None; "to_signed" maps [0, 1] to [-1, 1].
        pool_channels: Hidden width of a block's GroupNorm branch, 0 for none.
    """

    index: int
    kind: Literal["clamp", "conv", "block", "upsample_conv"]
    in_channels: int
    out_channels: int
    stride: int = 1
    bias: bool = True
    activation: str | None = None
    pool_channels: int = 0

    @property
    def name(self) -> str:
        """Name of the Flax module's attribute and key in params."""
        return f"layers_{self.index}"


def build_layers(component: Component, config: AutoencoderTinyConfig) -> tuple[Layer, ...]:
    """List the layers of a component, input first.

    >>> [layer.index for layer in build_layers("decoder", AutoencoderTinyConfig())]
    [0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19]
    """
    return tuple(_encoder(config) if component == "encoder" else _decoder(config))


def is_resampling(layer: Layer) -> bool:
    """Return whether a layer downsamples or upsamples."""
    return layer.kind == "upsample_conv" or layer.stride == 2


def num_stages(component: Component, config: AutoencoderTinyConfig) -> int:
    """Count the stages that `split_layers` can separate, each opened or closed by a resampling.

    >>> num_stages("encoder", AutoencoderTinyConfig())
    3
    """
    return len(_cuts(component, build_layers(component, config)))


def scales_of(config: AutoencoderTinyConfig) -> tuple[float, ...]:
    """List the scales of thumbnails: the decoder's resolutions below 1, largest first.

    >>> scales_of(AutoencoderTinyConfig())
    (0.5, 0.25, 0.125)
    """
    return tuple(0.5**k for k in range(1, num_stages("decoder", config) + 1))


def thumbnail_name(scale: float) -> str:
    """Return the key of a scale in `params["thumbnails"]`.

    >>> thumbnail_name(1 / 8)
    '8'
    """
    return str(round(1 / scale))


def split_layers(
    component: Component, config: AutoencoderTinyConfig, count: int
) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    """Split a component into its `count` stages nearest the latent and the rest.

    A decoder runs the first part first, an encoder the second.

    Raises:
        ValueError: The component has fewer stages.
    """
    layers = build_layers(component, config)
    if not count:
        return (), layers
    cuts = _cuts(component, layers)
    if count > len(cuts):
        raise ValueError(
            f"this {component} cannot be split after {count} stages, it has {len(cuts)}"
        )
    cut = cuts[count - 1]
    first, second = layers[:cut], layers[cut:]
    return (first, second) if component == "decoder" else (second, first)


def _cuts(component: Component, layers: tuple[Layer, ...]) -> list[int]:
    resampling = [i for i, layer in enumerate(layers) if is_resampling(layer)]
    return resampling if component == "decoder" else [i for i in resampling[::-1] if i > 0]


def _encoder(config: AutoencoderTinyConfig) -> Iterator[Layer]:
    index, width = 0, config.in_channels
    for stem in config.encoder_stem_channels:
        yield Layer(index, "conv", width, stem, stride=2, activation=config.act_fn)
        index, width = index + 2, stem
    stages = list(zip(config.encoder_block_out_channels, config.num_encoder_blocks, strict=True))
    for stage, (out_width, blocks) in enumerate(stages):
        if stage:
            out = out_width if config.width_change == "conv" else width
            yield Layer(index, "conv", width, out, stride=2, bias=False)
            index, width = index + 1, out
        elif not config.encoder_stem_channels:
            yield Layer(index, "conv", width, out_width)
            index, width = index + 1, out_width
        pool = config.pool_channels if stage == len(stages) - 1 else 0
        for _ in range(blocks):
            yield Layer(index, "block", width, out_width, pool_channels=pool)
            index, width = index + 1, out_width
    yield Layer(index, "conv", width, config.latent_channels)


def _decoder(config: AutoencoderTinyConfig) -> Iterator[Layer]:
    widths, z = config.decoder_block_out_channels, config.latent_channels
    yield Layer(0, "clamp", z, z)
    yield Layer(1, "conv", z, widths[0], activation=config.act_fn)
    index, width = 3, widths[0]
    for stage, (out_width, blocks) in enumerate(
        zip(widths, config.num_decoder_blocks, strict=True)
    ):
        if stage:
            out = out_width if config.width_change == "conv" else width
            yield Layer(index + 1, "upsample_conv", width, out, bias=False)
            index, width = index + 2, out
        pool = 0 if stage else config.pool_channels
        for _ in range(blocks):
            yield Layer(index, "block", width, out_width, pool_channels=pool)
            index, width = index + 1, out_width
    yield Layer(index, "conv", width, config.out_channels, activation="to_signed")

"""Encoder and decoder as Flax NNX modules; images and latents are NHWC.

A module computes in the dtype of its input, whatever the dtype of its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ..config import AutoencoderTinyConfig
from .blocks import Block, activation, clamp
from .convolutions import Conv, UpsampleConv, narrow, widen
from .layers import Component as Half
from .layers import Layer, layers_of


def apply_layer(module: Encoder | Decoder, layer: Layer, x: jax.Array) -> jax.Array:
    """Apply one layer of `module` to x; a "conv" leaves rounding to what follows it."""
    if layer.kind == "clamp":
        return clamp(widen(x))
    if layer.kind == "activation":
        return activation(module.config.act_fn)(widen(x))
    return getattr(module, layer.name)(x)


def _add_layers(
    module: Encoder | Decoder,
    half: Half,
    config: AutoencoderTinyConfig,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> None:
    options: dict[str, Any] = {"param_dtype": param_dtype, "rngs": rngs}
    for layer in layers_of(half, config):
        width = (layer.in_channels, layer.out_channels)
        if layer.kind == "conv":
            conv = Conv(*width, stride=layer.stride, use_bias=layer.bias, **options)
            setattr(module, layer.name, conv)
        elif layer.kind == "upsample_conv":
            setattr(module, layer.name, UpsampleConv(*width, **options))
        elif layer.kind == "block":
            block = Block(
                *width, pool_channels=layer.pool_channels, act_fn=config.act_fn, **options
            )
            setattr(module, layer.name, block)


def apply_layers(
    module: Encoder | Decoder,
    layers: Sequence[Layer],
    x: jax.Array,
    dtype: DTypeLike,
    *,
    remat: bool = False,
) -> jax.Array:
    """Apply layers of `module`, computing in dtype; the result may be wider than that."""
    for layer in layers:
        if layer.kind != "activation":
            x = narrow(x, dtype)
        if remat and layer.kind == "block":
            x = jax.checkpoint(lambda x, layer=layer: apply_layer(module, layer, x))(x)
        else:
            x = apply_layer(module, layer, x)
    return x


class Encoder(nnx.Module):
    """Encode images of [-1, 1] into latents in model space.

    Args:
        config: Architecture.
        param_dtype: Dtype of the parameters.
        rngs: Random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: AutoencoderTinyConfig,
        *,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        _add_layers(self, "encoder", config, param_dtype, rngs)

    def __call__(self, image: jax.Array, *, remat: bool = False) -> jax.Array:
        """Map (n, h, w, 3) to (n, h/8, w/8, z), rounded up, in the image's dtype.

        Sides are divided by 32 in taesana. With remat each block is recomputed in the gradient.
        """
        x = (widen(image) + 1) / 2
        x = apply_layers(self, layers_of("encoder", self.config), x, image.dtype, remat=remat)
        return narrow(x, image.dtype)


class Decoder(nnx.Module):
    """Decode latents in model space into images of about [-1, 1]; the output is not clipped.

    Args:
        config: Architecture.
        param_dtype: Dtype of the parameters.
        rngs: Random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: AutoencoderTinyConfig,
        *,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        _add_layers(self, "decoder", config, param_dtype, rngs)

    def __call__(self, latent: jax.Array, *, remat: bool = False) -> jax.Array:
        """Map (n, h, w, z) to (n, 8h, 8w, 3) in the latent's dtype.

        Sides are multiplied by 32 in taesana. With remat each block is recomputed in the gradient.
        """
        layers = layers_of("decoder", self.config)
        x = apply_layers(self, layers, latent, latent.dtype, remat=remat)
        return narrow(x * 2 - 1, latent.dtype)

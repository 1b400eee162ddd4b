"""Encoder and decoder as Flax NNX modules; images and latents are NHWC.

A module computes in the dtype of its input, whatever the dtype of its parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ..config import AutoencoderTinyConfig
from ..kernels import round_to, upcast
from .blocks import Block, apply_conv, clamp
from .convolutions import Conv, UpsampleConv
from .layers import Component, Layer, build_layers


def apply_layer(
    module: Encoder | Decoder,
    layer: Layer,
    x: jax.Array,
    *,
    convolve: Callable[..., jax.Array] = apply_conv,
    align_skip: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Apply one layer of `module` to x, in the dtype of x; the hooks are those of `Block`."""
    if layer.kind == "clamp":
        return round_to(clamp(upcast(x)), x.dtype)
    part = getattr(module, layer.name)
    if layer.kind == "block":
        return part(x, convolve=convolve, align_skip=align_skip)
    if layer.kind == "conv":
        return convolve(part, x, activation=layer.activation)
    return convolve(part, x)


def _add_layers(
    module: Encoder | Decoder,
    component: Component,
    config: AutoencoderTinyConfig,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> None:
    options: dict[str, Any] = {"param_dtype": param_dtype, "rngs": rngs}
    for layer in build_layers(component, config):
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
    *,
    remat: bool = False,
) -> jax.Array:
    """Apply layers of `module` to x, in the dtype of x.

    Args:
        module: Encoder or decoder.
        layers: Of its list.
        x: (n, h, w, c).
        remat: Whether each block is recomputed in the gradient.
    """
    for layer in layers:
        apply = functools.partial(apply_layer, module, layer)
        x = jax.checkpoint(apply)(x) if remat and layer.kind == "block" else apply(x)
    return x


def to_unsigned(image: jax.Array) -> jax.Array:
    """Map images from [-1, 1] to the [0, 1] that encoders were trained on."""
    return round_to((upcast(image) + 1) / 2, image.dtype)


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

        Sides are divided by 32 in taesana. `remat` is that of `apply_layers`.
        """
        layers = build_layers("encoder", self.config)
        return apply_layers(self, layers, to_unsigned(image), remat=remat)


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

        Sides are multiplied by 32 in taesana. `remat` is that of `apply_layers`.
        """
        layers = build_layers("decoder", self.config)
        return apply_layers(self, layers, latent, remat=remat)

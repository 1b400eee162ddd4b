"""A component as a Flax NNX module; images and latents are NHWC.

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


class Network(nnx.Module):
    """One component of a model: its layers, by the names of `build_layers`.

    Args:
        component: "encoder" or "decoder".
        config: Architecture.
        param_dtype: Dtype of the parameters.
        rngs: Random numbers for the initial parameters.
    """

    def __init__(
        self,
        component: Component,
        config: AutoencoderTinyConfig,
        *,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.component: Component = component
        self.config = config
        options: dict[str, Any] = {"param_dtype": param_dtype, "rngs": rngs}
        for layer in build_layers(component, config):
            width = (layer.in_channels, layer.out_channels)
            if layer.kind == "conv":
                part = Conv(*width, stride=layer.stride, use_bias=layer.bias, **options)
            elif layer.kind == "upsample_conv":
                part = UpsampleConv(*width, **options)
            elif layer.kind == "block":
                pool, act_fn = layer.pool_channels, config.act_fn
                part = Block(*width, pool_channels=pool, act_fn=act_fn, **options)
            else:
                continue
            setattr(self, layer.name, part)

    def __call__(self, x: jax.Array, *, remat: bool = False) -> jax.Array:
        """Encode images (n, h, w, 3) or decode latents (n, h, w, z), in the dtype of x.

        Images are about [-1, 1], those decoded are not clipped. `remat` is that of
        `apply_layers`.
        """
        x = to_unsigned(x) if self.component == "encoder" else x
        layers = build_layers(self.component, self.config)
        return apply_layers(self, layers, x, remat=remat)


def apply_layer(
    module: Network,
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


def apply_layers(
    module: Network,
    layers: Sequence[Layer],
    x: jax.Array,
    *,
    remat: bool = False,
) -> jax.Array:
    """Apply some layers of `module` to x (n, h, w, c), in the dtype of x.

    With `remat` the gradient recomputes each block.
    """
    for layer in layers:
        apply = functools.partial(apply_layer, module, layer)
        x = jax.checkpoint(apply)(x) if remat and layer.kind == "block" else apply(x)
    return x


def to_unsigned(image: jax.Array) -> jax.Array:
    """Map images from [-1, 1] to the [0, 1] that encoders were trained on."""
    return round_to((upcast(image) + 1) / 2, image.dtype)

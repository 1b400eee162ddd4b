"""Thumbnails: small images at a fraction of the cost, from the decoder's intermediate features.

The decoder stops after the blocks of one resolution. A head, a 3x3 convolution of the input and the
output of each of these blocks, gives the image at that resolution; `fitting` fits it to the
downsampled full decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from ..config import AutoencoderTinyConfig
from ..kernels import XLA, ConvSpec, Engine, fused_conv, round_to, wide_dtype
from .functional import Computation, bind, finish
from .layers import Layer, Params, scales_of, split_layers, thumbnail_name
from .modules import apply_layer

# A head's convolution of one feature: a term of a sum, which is rounded once.
_HEAD_TERM = ConvSpec(rounded=False)


def apply_thumbnail(
    decoder_params: Params, head: Params, latents: jax.Array, computation: Computation
) -> jax.Array:
    """Decode latents into thumbnails of `computation.scale`, without compiling or checking."""
    latents = latents.astype(computation.dtype)
    start, image = 0, head["bias"].astype(wide_dtype(latents.dtype)).reshape(1, 1, 1, -1)
    for x in features(
        decoder_params,
        latents,
        config=computation.config,
        scale=computation.scale,
        engine=computation.engine or XLA,
    ):
        # A sum of convolutions: concatenating the features would hold them in memory twice.
        stop = start + x.shape[-1]
        image = image + fused_conv(x, head["kernel"][:, :, start:stop], spec=_HEAD_TERM)
        start = stop
    return finish(round_to(image, computation.dtype), computation)


def features(
    decoder_params: Params,
    latent: jax.Array,
    *,
    config: AutoencoderTinyConfig,
    scale: float,
    engine: Engine = XLA,
) -> Iterator[jax.Array]:
    """Yield the features (n, 8h * scale, 8w * scale, c) that a head reads.

    These are the input of the blocks at one resolution, and the output of each, in the dtype of the
    latent (n, h, w, z).
    """
    module, x = bind(decoder_params, "decoder", config, engine), latent
    layers, start = _layers(config, scale)
    for i, layer in enumerate(layers):
        x = apply_layer(module, layer, x)
        if i >= start:
            yield x


def select_head(params: Params, scale: float, config: AutoencoderTinyConfig) -> Params:
    """Return the head of a scale, or raise ValueError."""
    heads = params.get("thumbnails", {})
    head = heads.get(thumbnail_name(scale)) if isinstance(heads, Mapping) else None
    if not isinstance(head, Mapping):
        raise ValueError(
            f"params['thumbnails'] has no head for scale 1/{thumbnail_name(scale)}: "
            f"add_thumbnails adds those of the published models; fit_thumbnails, or the command "
            f"taesd-jax fit-thumbnails, fits others"
        )
    layers, start = _layers(config, scale)
    channels = sum(layer.out_channels for layer in layers[start:])
    expected = {"kernel": (3, 3, channels, config.out_channels), "bias": (config.out_channels,)}
    got = {key: jnp.shape(value) for key, value in head.items()}
    if got != expected:
        name = thumbnail_name(scale)
        raise ValueError(f"the head for scale 1/{name} must have shapes {expected}, got {got}")
    return dict(head)


def _layers(config: AutoencoderTinyConfig, scale: float) -> tuple[tuple[Layer, ...], int]:
    """Return the layers up to a scale, and the index among them of the one before its blocks."""
    layers = split_layers("decoder", config, scales_of(config)[::-1].index(scale) + 1)[0]
    return layers, max(i for i, layer in enumerate(layers) if layer.kind != "block")

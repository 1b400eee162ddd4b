"""Thumbnails: small images at a part of the cost, read off the decoder's own features.

The decoder stops behind the blocks of one size. A 3x3 convolution of what enters them and of what
each gives, the head, gives the image of that size: a least-squares fit to the full decode,
downsampled.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from ..config import AutoencoderTinyConfig
from ..kernels import ConvSpec, fused_conv, round_to, wide_dtype
from .blocks import apply_conv
from .functional import Computation, Params, bind, finish
from .layers import Layer, split_layers, stages_of
from .modules import Decoder, apply_layer

_PART_OF_A_HEAD = ConvSpec(rounded=False)


def scales_of(config: AutoencoderTinyConfig) -> tuple[float, ...]:
    """List the scales below 1 that a decoder passes through, largest first.

    >>> scales_of(AutoencoderTinyConfig())
    (0.5, 0.25, 0.125)
    """
    return tuple(0.5**k for k in range(1, stages_of("decoder", config) + 1))


def check_scale(scale: Any, config: AutoencoderTinyConfig) -> float:
    """Return a scale if it is 1 or that of thumbnails, else raise ValueError."""
    scales = scales_of(config)
    if isinstance(scale, bool) or not isinstance(scale, Real) or scale not in (1, *scales):
        listed = ", ".join(f"1/{head_name(s)}" for s in scales)
        raise ValueError(f"scale must be 1 or one of ({listed}), got {scale!r}")
    return float(scale)


def head_name(scale: float) -> str:
    """Return the key of a scale's head in params["heads"].

    >>> head_name(1 / 8)
    '8'
    """
    return str(round(1 / scale))


def apply_thumbnail(
    decoder_params: Params, head: Params, latents: jax.Array, computation: Computation
) -> jax.Array:
    """Decode latents into thumbnails of `computation.scale`; not compiled, nothing is checked."""
    latents = latents.astype(computation.dtype)
    start, image = 0, head["bias"].astype(wide_dtype(latents.dtype)).reshape(1, 1, 1, -1)
    for x in features(
        decoder_params,
        latents,
        config=computation.config,
        scale=computation.scale,
        multiprocessors=computation.multiprocessors,
    ):
        # A sum over the features: side by side in channels they would take the memory again.
        stop = start + x.shape[-1]
        image = image + fused_conv(x, head["kernel"][:, :, start:stop], spec=_PART_OF_A_HEAD)
        start = stop
    return finish(round_to(image, computation.dtype), computation)


def features(
    decoder_params: Params,
    latent: jax.Array,
    *,
    config: AutoencoderTinyConfig,
    scale: float,
    multiprocessors: int = 0,
) -> Iterator[jax.Array]:
    """Yield (n, 8h * scale, 8w * scale, c) what enters the blocks of one size, and what each gives.

    Args:
        decoder_params: `params["decoder"]`.
        latent: (n, h, w, z), in the dtype to compute in.
        config: Architecture.
        scale: One of `scales_of(config)`.
        multiprocessors: Of the Hopper GPU whose kernels may serve; 0 for none.
    """
    module, x = bind(decoder_params, "decoder", config), latent
    assert isinstance(module, Decoder)
    layers, start = _layers(config, scale)
    convolve = functools.partial(apply_conv, multiprocessors=multiprocessors)
    for i, layer in enumerate(layers):
        x = apply_layer(module, layer, x, convolve=convolve)
        if i >= start:
            yield x


def select_head(params: Params, scale: float, config: AutoencoderTinyConfig) -> Params:
    """Return the head of a scale, else raise ValueError."""
    heads = params.get("heads", {})
    head = heads.get(head_name(scale)) if isinstance(heads, Mapping) else None
    if not isinstance(head, Mapping):
        raise ValueError(
            f"there is no head for scale 1/{head_name(scale)} in params['heads']: add_heads brings "
            f"those of the published models, fit_heads makes them for others"
        )
    layers, start = _layers(config, scale)
    channels = sum(layer.out_channels for layer in layers[start:])
    want = {"kernel": (3, 3, channels, config.out_channels), "bias": (config.out_channels,)}
    got = {key: jnp.shape(value) for key, value in head.items()}
    if got != want:
        raise ValueError(f"the head for scale 1/{head_name(scale)} must be {want}, got {got}")
    return dict(head)


def _layers(config: AutoencoderTinyConfig, scale: float) -> tuple[tuple[Layer, ...], int]:
    """Return the layers up to a scale, and the place of the one before its blocks."""
    layers = split_layers("decoder", config, scales_of(config)[::-1].index(scale) + 1)[0]
    return layers, max(i for i, layer in enumerate(layers) if layer.kind != "block")

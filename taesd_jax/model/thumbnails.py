"""Small pictures at a fraction of the cost, read off the decoder's own features.

The decoder stops behind the blocks of one size. A 3x3 convolution of what enters them and of what
each gives, the head, gives the picture of that size: a least-squares fit to the whole decode,
downsampled.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from numbers import Real

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..kernels import round_to, upcast
from .functional import Params, bind, half_of, partitioned, resolve_dtypes
from .layers import Layer, split_layers, stages_of
from .modules import Decoder, apply_layer
from .validation import check_latent


def scales_of(config: AutoencoderTinyConfig) -> tuple[float, ...]:
    """List the scales below 1 that a decoder passes through, largest first.

    >>> scales_of(AutoencoderTinyConfig())
    (0.5, 0.25, 0.125)
    """
    return tuple(0.5**k for k in range(1, stages_of("decoder", config) + 1))


def head_name(scale: float) -> str:
    """Return the key of a scale's head in params["heads"].

    >>> head_name(1 / 8)
    '8'
    """
    return str(round(1 / scale))


def decode_reduced(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    scale: float,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Decode latents into small images, close to the downsampled ones of `decode`.

    Args:
        params: {"decoder": ..., "heads": ...}; `add_heads` or `fit_heads` brings the heads.
        latent: As for `decode`.
        config: Architecture.
        scale: 1/2, 1/4 or 1/8 of the size of `decode`; down to 1/32 in models of that factor.
        dtype: As for `decode`.

    Returns:
        Images (n, 8h * scale, 8w * scale, 3) of about [-1, 1], not clipped.

    Raises:
        ValueError: As `decode`, or there is no head for that scale.
        TypeError: As `decode`.
    """
    check_latent(latent, config)
    decoder_params, head = half_of(params, "decoder"), _head_of(params, scale, config)
    options = (config.architecture, float(scale), *resolve_dtypes(latent, config, dtype))
    return _decode_reduced(decoder_params, head, latent, *options)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _decode_reduced(
    decoder_params: Params,
    head: Params,
    latent: jax.Array,
    config: AutoencoderTinyConfig,
    scale: float,
    compute: str,
    result: str,
) -> jax.Array:
    def run(params: tuple[Params, Params], latent: jax.Array) -> jax.Array:
        (decoder_params, head), latent = params, latent.astype(compute)
        start, image = 0, head["bias"].astype(upcast(latent).dtype).reshape(1, 1, 1, -1)
        for x in features(decoder_params, latent, config=config, scale=scale):
            # A sum over the features: side by side in channels they would take the memory again.
            stop = start + x.shape[-1]
            image = image + _convolve(x, head["kernel"][:, :, start:stop])
            start = stop
        return round_to(image, compute).astype(result)

    return partitioned(run, latent)((decoder_params, head), latent)


def features(
    decoder_params: Params, latent: jax.Array, *, config: AutoencoderTinyConfig, scale: float
) -> Iterator[jax.Array]:
    """Yield (n, 8h * scale, 8w * scale, c) what enters the blocks of one size, and what each gives.

    Args:
        decoder_params: `params["decoder"]`.
        latent: (n, h, w, z), in the dtype to compute in.
        config: Architecture.
        scale: One of `scales_of(config)`.
    """
    module, x = bind(decoder_params, "decoder", config), latent
    assert isinstance(module, Decoder)
    layers, start = _layers(config, scale)
    for i, layer in enumerate(layers):
        x = apply_layer(module, layer, x)
        if i >= start:
            yield x


def _layers(config: AutoencoderTinyConfig, scale: float) -> tuple[tuple[Layer, ...], int]:
    """Return the layers up to a scale, and the place of the one before its blocks."""
    layers = split_layers("decoder", config, scales_of(config)[::-1].index(scale) + 1)[0]
    return layers, max(i for i, layer in enumerate(layers) if layer.kind != "block")


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=upcast(x).dtype,
    )


def _head_of(params: Params, scale: float, config: AutoencoderTinyConfig) -> Params:
    scales = scales_of(config)
    if isinstance(scale, bool) or not isinstance(scale, Real) or scale not in scales:
        listed = ", ".join(f"1/{head_name(s)}" for s in scales)
        raise ValueError(f"scale of a small picture must be one of ({listed}), got {scale!r}")
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

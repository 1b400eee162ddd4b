"""Conversions between latent conventions: of a full VAE, packed as tokens, patchified."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .config import AutoencoderTinyConfig
from .model.inputs import as_jax
from .model.validation import check_count, check_dtype


def from_vae_latents(latents: ArrayLike, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Convert latents of the full VAE to model space: (latents - shift) * scale.

    Args:
        latents: Latents as the full VAE's encoder returns them, any shape.
        config: Has `raw_latent_scale` and `raw_latent_shift`, which are the `scaling_factor` and
            `shift_factor` in the vae/config.json of each model.

    Raises:
        ValueError: The config has no `raw_latent_scale`.

    >>> from taesd_jax import VARIANTS
    >>> print(f"{float(from_vae_latents(jnp.ones(()), config=VARIANTS['taesd'])):.5f}")
    0.18215
    """
    scale, shift = _scale_and_shift(config)
    return (as_jax(latents) - shift) * scale


def to_vae_latents(latents: ArrayLike, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Convert latents from model space to those of the full VAE: latents / scale + shift.

    Args:
        latents: Latents in model space, any shape.
        config: As for `from_vae_latents`.

    Raises:
        ValueError: The config has no `raw_latent_scale`.
    """
    scale, shift = _scale_and_shift(config)
    return as_jax(latents) / scale + shift


def pack_latents(latents: ArrayLike) -> jax.Array:
    """Pack latents into FLUX's tokens, one for each 2x2 latents, in row-major order.

    Args:
        latents: (n, h, w, z) with even sides.

    Returns:
        Tokens (n, h/2 * w/2, 4z), channels ordered (z, row, column).

    Raises:
        ValueError: The latents have another rank or odd sides.
    """
    patches = patchify_latents(latents)
    return patches.reshape(patches.shape[0], -1, patches.shape[-1])


def unpack_latents(tokens: ArrayLike, *, size: tuple[int, int]) -> jax.Array:
    """Unpack FLUX's tokens into latents.

    Args:
        tokens: (n, h/2 * w/2, 4z).
        size: Height and width (h, w) of the latents: the image's sides divided by 8.

    Returns:
        Latents (n, h, w, z).

    Raises:
        ValueError: The tokens have another rank, or their number does not match `size`.
        TypeError: A side is not an integer.

    >>> unpack_latents(jnp.zeros((1, 6, 64)), size=(4, 6)).shape
    (1, 4, 6, 16)
    """
    tokens, (h, w) = as_jax(tokens), size
    for side in size:
        check_count("a side in size", side)
    if tokens.ndim != 3 or h % 2 or w % 2 or tokens.shape[1] * 4 != h * w or tokens.shape[2] % 4:
        raise ValueError(
            f"tokens of {h}x{w} latents must be (n, {h // 2} * {w // 2}, 4z) with even sides, "
            f"got shape {tokens.shape}"
        )
    return unpatchify_latents(tokens.reshape(tokens.shape[0], h // 2, w // 2, -1))


def patchify_latents(latents: ArrayLike) -> jax.Array:
    """Move each 2x2 latents into channels, as FLUX.1 and FLUX.2 order them.

    Args:
        latents: (n, h, w, z) with even sides.

    Returns:
        (n, h/2, w/2, 4z), channels ordered (z, row, column).

    Raises:
        ValueError: The latents have another rank or odd sides.
    """
    latents = as_jax(latents)
    if latents.ndim != 4 or latents.shape[1] % 2 or latents.shape[2] % 2:
        raise ValueError(f"latents must be (n, h, w, z) with even sides, got shape {latents.shape}")
    n, h, w, z = latents.shape
    pairs = latents.reshape(n, h // 2, 2, w // 2, 2, z).transpose(0, 1, 3, 5, 2, 4)
    return pairs.reshape(n, h // 2, w // 2, 4 * z)


def unpatchify_latents(patches: ArrayLike) -> jax.Array:
    """Undo `patchify_latents`.

    FLUX.2's pipeline normalises patches with a BatchNorm, and undoes that before its own VAE. taef2
    expects the normalised values: pass the patches without undoing it.

    Args:
        patches: (n, h, w, 4z), channels ordered (z, row, column).

    Returns:
        Latents (n, 2h, 2w, z).

    Raises:
        ValueError: The patches have another rank, or a number of channels that 4 does not divide.
    """
    patches = as_jax(patches)
    if patches.ndim != 4 or patches.shape[-1] % 4:
        raise ValueError(f"patches must be (n, h, w, 4z), got shape {patches.shape}")
    n, h, w, c = patches.shape
    pairs = patches.reshape(n, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return pairs.reshape(n, 2 * h, 2 * w, c // 4)


def scale_latents(latent: ArrayLike, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Map latents to [0, 1] for storage in 8 bits, clipping at +-`config.latent_magnitude`.

    Raises:
        TypeError: The latent is not floating point.
    """
    latent = as_jax(latent)
    check_dtype(latent.dtype)
    return jnp.clip(latent / (2 * config.latent_magnitude) + config.latent_shift, 0, 1)


def unscale_latents(scaled: ArrayLike, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Undo `scale_latents`; divide 8-bit values by 255 first.

    Raises:
        TypeError: The values are not floating point.
    """
    scaled = as_jax(scaled)
    check_dtype(scaled.dtype)
    return (scaled - config.latent_shift) * (2 * config.latent_magnitude)


@functools.partial(jax.jit, static_argnames="config")
def quantize_latents(latent: jax.Array, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Round latents to the values that 8-bit storage keeps."""
    stored = jnp.round(scale_latents(latent, config=config) * 255) / 255
    return unscale_latents(stored, config=config)


def _scale_and_shift(config: AutoencoderTinyConfig) -> tuple[Any, Any]:
    if config.raw_latent_scale is None:
        if len(names := config.same_architecture) > 1:
            raise ValueError(
                f"this config has no raw_latent_scale, which differs between "
                f"{' and '.join(names)}: pass config.with_variant({names[0]!r}), or another of them"
            )
        raise ValueError(
            f"{config.variant or 'this config'} has no raw_latent_scale: its full VAE's latents "
            f"differ by more than one scale, or the scale is unknown"
        )
    return config.raw_latent_scale, config.raw_latent_shift or 0.0

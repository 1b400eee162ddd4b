"""The forms in which pipelines hand latents on: raw, packed into tokens, patchified."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .config import AutoencoderTinyConfig
from .model.validation import check_dtype


def from_raw(raw: ArrayLike, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Turn a full VAE's own latent into model space: (raw - shift) * scale.

    Args:
        raw: What the full VAE's encoder returns, any shape.
        config: Names the constants, `raw_latent_scale` and `raw_latent_shift`; they come from the
            `scaling_factor` and `shift_factor` in the vae/config.json of each model.

    Raises:
        ValueError: The config has no constants.

    >>> from taesd_jax import VARIANTS
    >>> print(f"{float(from_raw(jnp.ones(()), config=VARIANTS['taesd'])):.5f}")
    0.18215
    """
    scale, shift = _constants(config)
    return (jnp.asarray(raw) - shift) * scale


def to_raw(latent: ArrayLike, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Turn a latent in model space into a full VAE's own: latent / scale + shift.

    Args:
        latent: In model space, any shape.
        config: As for `from_raw`.

    Raises:
        ValueError: The config has no constants.
    """
    scale, shift = _constants(config)
    return jnp.asarray(latent) / scale + shift


def pack(latent: ArrayLike) -> jax.Array:
    """Pack a latent into FLUX's tokens, one for each 2x2 latents, rows first.

    Args:
        latent: (n, h, w, z) with even sides.

    Returns:
        Tokens (n, h/2 * w/2, 4z), channels ordered (z, row, column).

    Raises:
        ValueError: The latent has another rank or odd sides.
    """
    patches = patchify(latent)
    return patches.reshape(patches.shape[0], -1, patches.shape[-1])


def unpack(tokens: ArrayLike, *, size: tuple[int, int]) -> jax.Array:
    """Turn FLUX's tokens back into a latent.

    Args:
        tokens: (n, h/2 * w/2, 4z).
        size: Rows and columns (h, w) of the latent: the image's sides divided by 8.

    Returns:
        Latent (n, h, w, z).

    Raises:
        ValueError: The tokens have another rank, or their number is not that of `size`.

    >>> unpack(jnp.zeros((1, 6, 64)), size=(4, 6)).shape
    (1, 4, 6, 16)
    """
    tokens, (h, w) = jnp.asarray(tokens), size
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"size must be two positive integers, got {size}")
    if tokens.ndim != 3 or h % 2 or w % 2 or tokens.shape[1] * 4 != h * w or tokens.shape[2] % 4:
        raise ValueError(
            f"tokens of a latent of {h}x{w} must be (n, {h // 2} * {w // 2}, 4z) with even sides, "
            f"got shape {tokens.shape}"
        )
    return unpatchify(tokens.reshape(tokens.shape[0], h // 2, w // 2, -1))


def patchify(latent: ArrayLike) -> jax.Array:
    """Put each 2x2 latents into channels, as FLUX.1 and FLUX.2 order them.

    Args:
        latent: (n, h, w, z) with even sides.

    Returns:
        (n, h/2, w/2, 4z), channels ordered (z, row, column).

    Raises:
        ValueError: The latent has another rank or odd sides.
    """
    latent = jnp.asarray(latent)
    if latent.ndim != 4 or latent.shape[1] % 2 or latent.shape[2] % 2:
        raise ValueError(f"latent must be (n, h, w, z) with even sides, got shape {latent.shape}")
    n, h, w, z = latent.shape
    pairs = latent.reshape(n, h // 2, 2, w // 2, 2, z).transpose(0, 1, 3, 5, 2, 4)
    return pairs.reshape(n, h // 2, w // 2, 4 * z)


def unpatchify(patches: ArrayLike) -> jax.Array:
    """Undo `patchify`.

    FLUX.2's pipeline normalises its patches with a BatchNorm and undoes that before its own VAE.
    taef2 reads what the model sees: pass the patches as they are, without that inverse.

    Args:
        patches: (n, h, w, 4z), channels ordered (z, row, column).

    Returns:
        Latent (n, 2h, 2w, z).

    Raises:
        ValueError: The patches have another rank, or channels that 4 does not divide.
    """
    patches = jnp.asarray(patches)
    if patches.ndim != 4 or patches.shape[-1] % 4:
        raise ValueError(f"patches must be (n, h, w, 4z), got shape {patches.shape}")
    n, h, w, c = patches.shape
    pairs = patches.reshape(n, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return pairs.reshape(n, 2 * h, 2 * w, c // 4)


def scale_latents(latent: jax.Array, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Map latents to [0, 1] for storage in 8 bits, clipping at +-`config.latent_magnitude`.

    Raises:
        TypeError: The latent is not floating point.
    """
    check_dtype(latent.dtype)
    return jnp.clip(latent / (2 * config.latent_magnitude) + config.latent_shift, 0, 1)


def unscale_latents(scaled: jax.Array, *, config: AutoencoderTinyConfig) -> jax.Array:
    """Undo `scale_latents`; divide 8-bit values by 255 first.

    Raises:
        TypeError: The values are not floating point.
    """
    check_dtype(scaled.dtype)
    return (scaled - config.latent_shift) * (2 * config.latent_magnitude)


def _constants(config: AutoencoderTinyConfig) -> tuple[Any, Any]:
    if config.raw_latent_scale is None:
        raise ValueError(
            f"{config.variant or 'this config'} has no raw_latent_scale: its full VAE's latent is "
            f"not one number away from the model's, or it is unknown"
        )
    return config.raw_latent_scale, config.raw_latent_shift or 0.0

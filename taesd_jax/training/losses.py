"""Losses between images (n, h, w, c) of [-1, 1]: one number each, 0 for equal images."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..metrics import ssim


def mse(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean squared error."""
    return jnp.mean((image - target) ** 2)


def mae(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean absolute error."""
    return jnp.mean(jnp.abs(image - target))


def mse_eighth(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean squared error of images shrunk to 1/8, which leaves texture free.

    Raises:
        ValueError: 8 does not divide a side.
    """
    return mse(_shrink(image), _shrink(target))


def dssim(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return 1 minus `ssim`.

    Raises:
        ValueError: A side is smaller than its window of 11.
    """
    return 1 - ssim(image, target)


def amplitude(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean absolute difference of the amplitudes of their frequencies.

    It asks for texture of the right strength, wherever that lies.
    """
    a, b = (_magnitude(jnp.fft.rfft2(x, axes=(1, 2), norm="ortho")) for x in (image, target))
    return jnp.mean(jnp.abs(a - b))


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "mse": mse,
    "mae": mae,
    "mse_eighth": mse_eighth,
    "dssim": dssim,
    "amplitude": amplitude,
}


def _magnitude(x: jax.Array) -> jax.Array:
    # The gradient of a plain absolute value is NaN at 0.
    return jnp.sqrt(x.real**2 + x.imag**2 + 1e-12)


def _shrink(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    if h % 8 or w % 8:
        raise ValueError(f"mse_eighth needs sides that 8 divides, got shape {x.shape}")
    return x.reshape(n, h // 8, 8, w // 8, 8, c).mean((2, 4))

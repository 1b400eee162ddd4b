"""Losses between images (n, h, w, c) of [-1, 1]: one number each, 0 for equal images."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..metrics import blur, laplacian, ssim, texture_bands

_TEXTURE_WINDOW = 7


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


def detail(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean absolute Laplacian of the difference, which weighs fine detail most.

    Raises:
        ValueError: A side is smaller than 3.
    """
    _check_sides(image, "detail", 3)
    return jnp.mean(jnp.abs(laplacian(image - target)))


def texture(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean squared difference of the texture energies around each pixel.

    They are the root mean squares, in a Gaussian window of 7 pixels, of `texture_bands`. What is
    blurred has a loss, and what lies elsewhere in the window has none. One band for all fine detail
    would be met by a grid of pixels.

    Raises:
        ValueError: A side is smaller than 9.
    """
    _check_sides(image, "texture", _TEXTURE_WINDOW + 2)
    a, b = (_strength(texture_bands(x)) for x in (image, target))
    return jnp.mean((a - b) ** 2)


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "mse": mse,
    "mae": mae,
    "mse_eighth": mse_eighth,
    "dssim": dssim,
    "amplitude": amplitude,
    "detail": detail,
    "texture": texture,
}


def _magnitude(x: jax.Array) -> jax.Array:
    # The gradient of a plain absolute value is NaN at 0.
    return jnp.sqrt(x.real**2 + x.imag**2 + 1e-12)


def _shrink(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    if h % 8 or w % 8:
        raise ValueError(f"mse_eighth needs sides that 8 divides, got shape {x.shape}")
    return x.reshape(n, h // 8, 8, w // 8, 8, c).mean((2, 4))


def _check_sides(x: jax.Array, name: str, least: int) -> None:
    if min(x.shape[1:3]) < least:
        raise ValueError(f"{name} needs sides of {least} at least, got shape {x.shape}")


def _strength(x: jax.Array) -> jax.Array:
    return jnp.sqrt(blur(x**2, window=_TEXTURE_WINDOW) + 1e-6)  # the gradient at 0 stays finite

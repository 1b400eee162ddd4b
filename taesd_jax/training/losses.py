"""Losses between images (n, h, w, c) of [-1, 1]: one number each, 0 for equal images."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..metrics import ssim

_WINDOW = 16


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
    """Return the mean squared difference of the amplitudes of frequencies in windows of 16 pixels.

    It asks for texture of the right strength, whatever its phase. Each amplitude is weighted by its
    frequency, in cycles a window: those of photographs fall as 1/f (Field 1987, "Relations between
    the statistics of natural images and the response properties of cortical cells").

    Raises:
        ValueError: A side is smaller than 16.
    """
    return jnp.mean((_spectra(image) - _spectra(target)) ** 2)


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "mse": mse,
    "mae": mae,
    "mse_eighth": mse_eighth,
    "dssim": dssim,
    "amplitude": amplitude,
}


def _spectra(x: jax.Array) -> jax.Array:
    """Return weighted amplitudes in two grids of Hann windows, the second half a window further."""
    n, h, w, c = x.shape
    size, half = _WINDOW, _WINDOW // 2
    if min(h, w) < size:
        raise ValueError(f"amplitude needs sides of {size} at least, got shape {x.shape}")
    hann = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    hann *= (8 / 3) ** 0.5  # a mean square of 1
    window = jnp.asarray(np.outer(hann, hann).reshape(1, size, 1, size, 1), x.dtype)
    frequency = size * np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    weight = jnp.asarray(frequency.reshape(1, size, 1, -1, 1), x.dtype)
    found = []
    for start in (0, half):
        rows, columns = (h - start) // size, (w - start) // size
        y = x[:, start : start + rows * size, start : start + columns * size]
        y = y.reshape(n * rows, size, columns, size, c) * window
        f = jnp.fft.rfft2(y, axes=(1, 3), norm="ortho")
        # The gradient of a plain absolute value is NaN at 0.
        found.append((weight * jnp.sqrt(f.real**2 + f.imag**2 + 1e-6)).reshape(-1))
    return jnp.concatenate(found)


def _shrink(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    if h % 8 or w % 8:
        raise ValueError(f"mse_eighth needs sides that 8 divides, got shape {x.shape}")
    return x.reshape(n, h // 8, 8, w // 8, 8, c).mean((2, 4))

"""Similarity of images (n, h, w, c) in [-1, 1]: SSIM, GMSD and sharpness."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Side and standard deviation of the Gaussian window of Wang et al. 2004
# (doi:10.1109/TIP.2003.819861).
_WINDOW = 11
_SIGMA = 1.5
# Stabilising constants of the same, for values in [0, 1].
_C1 = 0.01**2
_C2 = 0.03**2
# Stabilising constant of Xue et al. 2014 (doi:10.1109/TIP.2013.2293423), for 8-bit values.
_GRADIENT_C = 170.0
# RGB weights of luma, ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def ssim(image: jax.Array, other: jax.Array) -> jax.Array:
    """Return the structural similarity of Wang et al. 2004, averaged over pixels and channels.

    It is 1 for equal images. Only windows inside the image count.

    Raises:
        ValueError: A side is smaller than the window of 11 pixels.
    """
    if min(image.shape[1:3]) < _WINDOW:
        raise ValueError(f"ssim needs sides of {_WINDOW} at least, got shape {image.shape}")
    image, other = (image + 1) / 2, (other + 1) / 2  # the formula needs positive intensities
    mean = functools.partial(blur, window=_WINDOW)
    a, b = mean(image), mean(other)
    aa = mean(image * image) - a * a
    bb = mean(other * other) - b * b
    ab = mean(image * other) - a * b
    similarity = (2 * a * b + _C1) * (2 * ab + _C2)
    return jnp.mean(similarity / ((a * a + b * b + _C1) * (aa + bb + _C2)))


def gmsd(image: jax.Array, other: jax.Array) -> jax.Array:
    """Return the gradient magnitude similarity deviation of Xue et al. 2014, averaged over images.

    It is 0 for equal images, and grows where edges are lost, invented or unevenly blurred. The
    border of the image at 1/2 size, where gradients would need pixels outside, is left out.

    Raises:
        ValueError: A side is smaller than 6 pixels.
    """
    if min(image.shape[1:3]) < 6:
        raise ValueError(f"gmsd needs sides of 6 at least, got shape {image.shape}")
    a, b = (_gradients(x) for x in (image, other))
    similarity = (2 * a * b + _GRADIENT_C) / (a * a + b * b + _GRADIENT_C)
    return jnp.mean(jnp.std(similarity, axis=(1, 2)))


def sharpness(image: jax.Array, other: jax.Array) -> jax.Array:
    """Return the fraction of the image's texture that `other` preserves, 1 for all of it.

    This is the mean over images and `texture_bands` of the ratio of root mean squares, each at most
    1: noise in one band does not compensate for blur in another. Bands that are empty in the image
    count 1. Unlike squared errors this penalises blur.

    Raises:
        ValueError: A side is smaller than 3 pixels.
    """
    if min(image.shape[1:3]) < 3:
        raise ValueError(f"sharpness needs sides of 3 at least, got shape {image.shape}")
    a, b = (_energies(x) for x in (image, other))  # (n, 8)
    preserved = jnp.where(a > 1e-6, b / jnp.maximum(a, 1e-6), 1)
    return jnp.mean(jnp.minimum(preserved, 1))


def texture_bands(x: jax.Array) -> jax.Array:
    """Return the eight texture bands of Laws 1980, "Textured image segmentation".

    They are the products of level, edge and spot (see `level_edge_spot`) along the two axes, except
    level by level. The gains make the bands of photographs about equally strong, so that the finest
    count too.

    Args:
        x: (n, h, w, c).

    Returns:
        (n, h - 2, w - 2, 8c).
    """
    bands = [
        across
        for i, down in enumerate(level_edge_spot(x, axis=1))
        for k, across in enumerate(level_edge_spot(down, axis=2))
        if i or k
    ]
    return jnp.concatenate(bands, axis=-1)


def level_edge_spot(x: jax.Array, *, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Filter an axis with level (1, 2, 1) / 4, edge (1, 0, -1) / 2 and spot (1, -2, 1) / 2.

    The axis loses one pixel at each end.
    """
    before, here, after = (
        lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, axis=axis) for i in range(3)
    )
    ends = before + after
    return (ends + 2 * here) / 4, (before - after) / 2, (ends - 2 * here) / 2


def blur(x: jax.Array, *, window: int) -> jax.Array:
    """Blur with a Gaussian of sigma 1.5 pixels; each side loses window - 1 pixels.

    Differentiable in reverse mode only.
    """
    return _blur(window, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blur(window: int, x: jax.Array) -> jax.Array:
    offsets = jnp.arange(window, dtype=x.dtype) - window // 2
    taps = jnp.exp(-(offsets**2) / (2 * _SIGMA**2))
    taps = taps / taps.sum()
    for axis in (1, 2):
        # Shifted sums, because a depthwise convolution is slow on a CPU.
        size = x.shape[axis] - window + 1
        parts = (lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(window))
        x = sum((taps[i] * part for i, part in enumerate(parts)), jnp.zeros((), x.dtype))
    return x


def _blur_back(window: int, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # The transpose of a symmetric blur is a blur. JAX's own gradient of shifted sums, a sum of
    # padded arrays, takes many times as long on a CPU.
    edge = (window - 1, window - 1)
    return (_blur(window, jnp.pad(gradient, ((0, 0), edge, edge, (0, 0)))),)


_blur.defvjp(lambda window, x: (_blur(window, x), None), _blur_back)


def _energies(x: jax.Array) -> jax.Array:
    luma = x.clip(-1, 1) @ jnp.array(_LUMA, x.dtype)  # (n, h, w)
    return jnp.sqrt(jnp.mean(texture_bands(luma[..., None]) ** 2, axis=(1, 2)))


def _gradients(x: jax.Array) -> jax.Array:
    n, h, w, _ = x.shape
    luma = (x.clip(-1, 1) + 1) * 127.5 @ jnp.array(_LUMA, x.dtype)  # (n, h, w)
    luma = luma[:, : h // 2 * 2, : w // 2 * 2]
    small = luma.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4))
    # Prewitt operators: a difference along one axis, a mean of three along the other.
    across = (small[:, :, 2:] - small[:, :, :-2]) / 3
    down = (small[:, 2:] - small[:, :-2]) / 3
    across = across[:, :-2] + across[:, 1:-1] + across[:, 2:]
    down = down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]
    return jnp.sqrt(across**2 + down**2)

"""How alike two images (n, h, w, c) of [-1, 1] are."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Wang et al. 2004 (doi:10.1109/TIP.2003.819861): a Gaussian window and two stabilising constants.
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
# Xue et al. 2014 (doi:10.1109/TIP.2013.2293423), for gradients of 8-bit values.
_GRADIENT_C = 170.0
_LUMA = (0.299, 0.587, 0.114)


def ssim(image: jax.Array, other: jax.Array) -> jax.Array:
    """Return the structural similarity of Wang et al. 2004, the mean over pixels and channels.

    It is 1 for equal images; only windows inside the image count.

    Raises:
        ValueError: A side is smaller than the window of 11.
    """
    if min(image.shape[1:3]) < _WINDOW:
        raise ValueError(f"ssim needs sides of {_WINDOW} at least, got shape {image.shape}")
    image, other = (image + 1) / 2, (other + 1) / 2  # its means are of positive light
    c1, c2 = _K1**2, _K2**2
    mean = functools.partial(blur, window=_WINDOW)
    a, b = mean(image), mean(other)
    aa = mean(image * image) - a * a
    bb = mean(other * other) - b * b
    ab = mean(image * other) - a * b
    similar = (2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))
    return jnp.mean(similar)


def gmsd(image: jax.Array, other: jax.Array) -> jax.Array:
    """Return the gradient magnitude similarity deviation of Xue et al. 2014, the mean of images.

    It is 0 for equal images, and grows where edges are lost, made up or blurred unevenly. The
    outermost row and column of the halved image, where gradients would need what lies outside, are
    left out.

    Raises:
        ValueError: A side is smaller than 6.
    """
    if min(image.shape[1:3]) < 6:
        raise ValueError(f"gmsd needs sides of 6 at least, got shape {image.shape}")
    a, b = (_gradients(x) for x in (image, other))
    similar = (2 * a * b + _GRADIENT_C) / (a * a + b * b + _GRADIENT_C)
    return jnp.mean(jnp.std(similar, axis=(1, 2)))


def sharpness(image: jax.Array, other: jax.Array) -> jax.Array:
    """Return how much of the image's texture `other` has, the mean of images and of bands.

    Of each of `texture_bands` it is the ratio of root mean squares, 1 at most: noise of one kind
    does not make up for what is blurred. A band that the image does not have counts 1. Squared
    errors forgive blur, this does not.

    Raises:
        ValueError: A side is smaller than 3.
    """
    if min(image.shape[1:3]) < 3:
        raise ValueError(f"sharpness needs sides of 3 at least, got shape {image.shape}")
    a, b = (_energies(x) for x in (image, other))  # (n, 8)
    kept = jnp.where(a > 1e-6, b / jnp.maximum(a, 1e-6), 1)
    return jnp.mean(jnp.minimum(kept, 1))


def texture_bands(x: jax.Array) -> jax.Array:
    """Return the eight texture bands of Laws 1980, "Textured image segmentation".

    They are products of a level (1, 2, 1) / 4, an edge (1, 0, -1) / 2 and a spot (1, -2, 1) / 2
    along the two axes, all but level by level. By these gains the bands of photographs are about as
    strong, so that the finest count, too.

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
    """Return a level (1, 2, 1) / 4, an edge (1, 0, -1) / 2 and a spot (1, -2, 1) / 2 along an axis.

    The axis has 2 pixels less, one at each end.
    """
    before, here, after = (
        lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, axis=axis) for i in range(3)
    )
    ends = before + after
    return (ends + 2 * here) / 4, (before - after) / 2, (ends - 2 * here) / 2


def blur(x: jax.Array, *, window: int) -> jax.Array:
    """Return means in a Gaussian of 1.5 pixels' deviation: each side has window - 1 pixels less.

    Gradients are those of reverse mode; `jax.jvp` refuses it.
    """
    return _blur(window, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blur(window: int, x: jax.Array) -> jax.Array:
    place = jnp.arange(window, dtype=x.dtype) - window // 2
    taps = jnp.exp(-(place**2) / (2 * _SIGMA**2))
    taps = taps / taps.sum()
    for axis in (1, 2):
        # Shifted sums: a convolution with a channel each is slow on a CPU.
        size = x.shape[axis] - window + 1
        parts = (lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(window))
        x = sum((taps[i] * part for i, part in enumerate(parts)), jnp.zeros((), x.dtype))
    return x


def _blur_back(window: int, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # A symmetric window blurs on the way back, too. JAX's own gradient of shifted sums, a sum of
    # padded arrays, takes a CPU many times as long.
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
    # Prewitt's operators: a difference along one axis, a mean of three along the other.
    across = (small[:, :, 2:] - small[:, :, :-2]) / 3
    down = (small[:, 2:] - small[:, :-2]) / 3
    across = across[:, :-2] + across[:, 1:-1] + across[:, 2:]
    down = down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]
    return jnp.sqrt(across**2 + down**2)

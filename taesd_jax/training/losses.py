"""Losses between images (n, h, w, c) of [-1, 1], or what an encoder sees in them.

One number each, 0 for equal images.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ..metrics import blur, laplacian, level_edge_spot, ssim, texture_bands

_TEXTURE_WINDOW = 7
# Of patches: every third is taken, gives so many numbers, and is compared within windows.
_PATCH_STRIDE, _PROJECTIONS, _PATCH_WINDOW, _LEAST_PATCHES_SIDE = 3, 16, 64, 24
# Of encoded patches: strides of the two stages, numbers a place gives, and what the second weighs.
_ENCODED_STRIDES, _ENCODED_PROJECTIONS, _SECOND_STAGE = (3, 2), 48, 0.2
# Of a stage's root mean square: what a channel's spread is raised by, so that one that a target
# hardly excites does not outweigh all others.
_LEAST_SPREAD = 0.1


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
    if image.shape[1] % 8 or image.shape[2] % 8:
        raise ValueError(f"mse_eighth needs sides that 8 divides, got shape {image.shape}")
    return mse(_shrink(image, 8), _shrink(target, 8))


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


def patches(image: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
    """Return how far the patches of two images are from each other, wherever in a window they lie.

    It is the sliced Wasserstein distance, squared (Heitz et al. 2021, "A sliced Wasserstein loss
    for neural texture synthesis"; Elnekave and Weiss 2022, "Generating natural images with direct
    patch distribution matching"): random projections of 5x5 patches, by way of
    `texture_bands`, sorted within windows of 64 pixels, or up to 96 where they divide the image so.
    Energies alone can be met by a woven pattern, whole distributions cannot. The mean of two
    scales, the images and their halves.

    Args:
        image: (n, h, w, c) in [-1, 1].
        target: Likewise.
        key: Of the projections, another one at each step.

    Raises:
        ValueError: A side is smaller than 24.
    """
    _check_sides(image, "patches", _LEAST_PATCHES_SIDE)
    found = []
    for scale, own in zip((1, 2), jax.random.split(key), strict=True):
        a, b = (_project(_shrink(x, scale), own) for x in (image, target))
        found.append(_transport(a, b, _PATCH_WINDOW // (scale * _PATCH_STRIDE)))
    return jnp.mean(jnp.stack(found))


def encoded_patches(
    features: list[jax.Array], targets: list[jax.Array], key: jax.Array
) -> jax.Array:
    """Return how far two images' patches are from each other, seen by an encoder.

    As `patches`, of what leaves the first two stages of an encoder, each channel in units of its
    spread in the target. Windows have 64 places of the first stage, which are pixels but where an
    encoder opens with a stem.

    Args:
        features: Of the image, (n, h, w, c) of each stage, largest first, as `stage_features`
            gives them; the third and later ones are not looked at.
        targets: Likewise of the target.
        key: Of the projections, another one at each step.

    Raises:
        ValueError: A side of the first stage is smaller than 24.
    """
    if min(features[0].shape[1:3]) < _LEAST_PATCHES_SIDE:
        raise ValueError(
            f"encoded_patches needs features of {_LEAST_PATCHES_SIDE} places a side at least, got "
            f"shape {features[0].shape}; give larger images"
        )
    found = jnp.zeros((), jnp.float32)
    stages = zip(features[:2], targets[:2], _ENCODED_STRIDES, (1.0, _SECOND_STAGE), strict=False)
    for (a, b, stride, weight), own in zip(stages, jax.random.split(key, 2), strict=False):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        drawn, place = jax.random.split(own)
        kernel = _draw_kernel(drawn, (a.shape[-1], _ENCODED_PROJECTIONS), a.dtype)
        spread = jnp.std(b, (0, 1, 2)) + _LEAST_SPREAD * jnp.sqrt(jnp.mean(b**2)) + 1e-6
        window = _PATCH_WINDOW * a.shape[2] // (features[0].shape[2] * stride)
        a, b = (_thin(x, stride, place) @ (kernel / spread[:, None]) for x in (a, b))
        found += weight * _transport(a, b, window)
    return found


def sharpen(image: jax.Array, amount: float) -> jax.Array:
    """Return an image with stronger fine detail, by an unsharp mask.

    It is image + amount * `fine_detail`(image).

    Args:
        image: (n, h, w, c) in [-1, 1].
        amount: 0 for the image itself, 1 for twice what the means leave out.

    Returns:
        Likewise, clipped to [-1, 1].
    """
    return jnp.clip(image + amount * fine_detail(image), -1, 1)


def fine_detail(image: jax.Array) -> jax.Array:
    """Return an image less the means of its 3x3 pixels, weighed (1, 2, 1) / 4 along both axes.

    Args:
        image: (n, h, w, c) in [-1, 1]; its edge is repeated around it.

    Returns:
        Likewise, in [-2, 2], around 0.
    """
    blurred = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for axis in (1, 2):
        blurred, _, _ = level_edge_spot(blurred, axis=axis)
    return image - blurred


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


def _shrink(x: jax.Array, factor: int) -> jax.Array:
    """Return means of squares; what is over at the right and at the bottom is left out."""
    n, h, w, c = x.shape
    h, w = h // factor, w // factor
    x = x[:, : h * factor, : w * factor]
    return x.reshape(n, h, factor, w, factor, c).mean((2, 4))


def _check_sides(x: jax.Array, name: str, least: int) -> None:
    if min(x.shape[1:3]) < least:
        raise ValueError(f"{name} needs sides of {least} at least, got shape {x.shape}")


def _strength(x: jax.Array) -> jax.Array:
    return jnp.sqrt(blur(x**2, window=_TEXTURE_WINDOW) + 1e-6)  # the gradient at 0 stays finite


def _project(x: jax.Array, key: jax.Array) -> jax.Array:
    """Project patches, from a random one on, onto random kernels of unit length."""
    bands = texture_bands(x)
    drawn, place = jax.random.split(key)
    kernel = _draw_kernel(drawn, (3, 3, bands.shape[-1], _PROJECTIONS), bands.dtype)
    # Whole, then thinned out: the gradient of a convolution with strides is slow on a CPU.
    x = lax.conv_general_dilated(
        bands, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return _thin(x, _PATCH_STRIDE, place)


def _draw_kernel(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Draw a kernel whose every output has weights of unit length."""
    kernel = jax.random.normal(key, shape, dtype)
    inputs = tuple(range(len(shape) - 1))
    return kernel / jnp.sqrt(jnp.sum(kernel**2, inputs, keepdims=True))


def _transport(a: jax.Array, b: jax.Array, window: int) -> jax.Array:
    """Return the mean squared Wasserstein distance of each number, (n, h, w, c), in windows."""
    a, b = (_windows(x, window) for x in (a, b))  # (n, i, j, c, window^2)
    # The k-th smallest number of one belongs to the k-th smallest of the other.
    return jnp.mean((jnp.sort(a, axis=-1) - jnp.sort(b, axis=-1)) ** 2)


def _thin(x: jax.Array, stride: int, key: jax.Array) -> jax.Array:
    """Take a place of every `stride` along both sides, from a random one on."""
    top, left = jax.random.randint(key, (2,), 0, stride)
    n, h, w, c = x.shape
    x = lax.dynamic_slice(x, (0, top, left, 0), (n, h + 1 - stride, w + 1 - stride, c))
    return x[:, ::stride, ::stride]


def _windows(x: jax.Array, wanted: int) -> jax.Array:
    """Cut (n, h, w, c) into windows of about that side, (n, i, j, c, pixels)."""
    n, h, w, c = x.shape
    rows, columns = (max(round(side / wanted), 1) for side in (h, w))
    down, across = h // rows, w // columns
    x = x[:, : rows * down, : columns * across]
    x = x.reshape(n, rows, down, columns, across, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(n, rows, columns, c, down * across)

"""Losses between images (n, h, w, c) in [-1, 1], or between what an encoder sees in them.

Each returns one number, 0 for equal images. `registry` lists them with the sizes that they need.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ..metrics import blur, level_edge_spot, ssim, texture_bands

_TEXTURE_WINDOW = 7  # side of the Gaussian window around each pixel
_PATCH_STRIDE = 3  # sample every third patch
_PATCH_PROJECTIONS = 16  # random projections of each patch
_PATCH_WINDOW = 64  # side in pixels of the windows that patches are compared within
_ENCODED_MIN_SIZE = 24  # places of stage 1; stage 2 needs a few in its one window
_ENCODED_STRIDES = (3, 2)  # sample every third place of stage 1, every second of stage 2
_ENCODED_PROJECTIONS = 48  # random projections of each place
_ENCODED_WEIGHTS = (1.0, 0.2)  # of stages 1 and 2
# Share of a stage's root mean square that is added to each channel's deviation, so that a channel
# that the target hardly excites does not outweigh all others.
_DEVIATION_FLOOR = 0.1


def mse(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean squared error."""
    return jnp.mean((image - target) ** 2)


def mse_eighth(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean squared error of images shrunk to 1/8.

    It holds colours and leaves texture to other losses, as in the training of TAESD 1.2.
    """
    return mse(_shrink(image, 8), _shrink(target, 8))


def dssim(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return 1 minus `ssim` (Wang et al. 2004)."""
    return 1 - ssim(image, target)


def amplitude(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean absolute difference of the amplitudes of the Fourier transforms.

    It asks for texture of the right strength wherever it lies, as in the training of TAESD 1.1.
    """
    a, b = (_magnitude(jnp.fft.rfft2(x, axes=(1, 2), norm="ortho")) for x in (image, target))
    return jnp.mean(jnp.abs(a - b))


def texture(image: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean squared difference of the texture energies around each pixel.

    Energies are the root mean squares of `texture_bands` (Laws 1980) in a Gaussian window of 7
    pixels. Blur costs, texture that is merely displaced within the window does not. All eight bands
    are needed: a single band of fine detail can be satisfied by a grid of pixels.
    """
    a, b = (_local_energy(texture_bands(x)) for x in (image, target))
    return jnp.mean((a - b) ** 2)


def patches(image: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
    """Return how far apart the distributions of patches are within windows of two images.

    This is the squared sliced Wasserstein distance (Heitz et al. 2021, "A sliced Wasserstein loss
    for neural texture synthesis"; Elnekave and Weiss 2022, "Generating natural images with direct
    patch distribution matching"): random projections of 5x5 patches, computed from
    `texture_bands` and sorted within windows of 64 to 96 pixels. A woven pattern can match texture
    energies, but not whole distributions. The result is the mean over two scales: the images and
    the images halved.
    The key draws the projections; use another one at each step.
    """
    distances = []
    for scale, scale_key in zip((1, 2), jax.random.split(key), strict=True):
        a, b = (_project_patches(_shrink(x, scale), scale_key) for x in (image, target))
        distances.append(_sliced_distance(a, b, _PATCH_WINDOW // (scale * _PATCH_STRIDE)))
    return jnp.mean(jnp.stack(distances))


def encoded_patches(
    features: list[jax.Array], targets: list[jax.Array], key: jax.Array
) -> jax.Array:
    """Return how far apart the distributions of an encoder's features are within windows.

    Like `patches`, for the outputs of an encoder's first two stages, with each channel divided by
    its deviation in the target. Pixels cannot tell lines from noise of the same strength; the
    encoder can. Windows have 64 places of the first stage, which are pixels unless the encoder
    starts with a stem.

    Args:
        features: `stage_features` of the image, (n, h, w, c) for each stage.
        targets: `stage_features` of the target.
        key: Draws the projections; use another one at each step.

    Raises:
        ValueError: A side of the first stage is smaller than 24.
    """
    if min(features[0].shape[1:3]) < _ENCODED_MIN_SIZE:
        raise ValueError(
            f"encoded_patches needs features with sides of at least {_ENCODED_MIN_SIZE}, got shape "
            f"{features[0].shape}; give larger images"
        )
    total = jnp.zeros((), jnp.float32)
    stages = zip(features[:2], targets[:2], _ENCODED_STRIDES, _ENCODED_WEIGHTS, strict=False)
    for (a, b, stride, weight), stage_key in zip(stages, jax.random.split(key, 2), strict=False):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        kernel_key, offset_key = jax.random.split(stage_key)
        kernel = _random_kernel(kernel_key, (a.shape[-1], _ENCODED_PROJECTIONS), a.dtype)
        deviation = jnp.std(b, (0, 1, 2)) + _DEVIATION_FLOOR * jnp.sqrt(jnp.mean(b**2)) + 1e-6
        window = _PATCH_WINDOW * a.shape[2] // (features[0].shape[2] * stride)
        a, b = (_subsample(x, stride, offset_key) @ (kernel / deviation[:, None]) for x in (a, b))
        total += weight * _sliced_distance(a, b, window)
    return total


def sharpen(image: jax.Array, amount: float) -> jax.Array:
    """Return image + amount * `fine_detail`(image), an unsharp mask, clipped to [-1, 1]."""
    return jnp.clip(image + amount * fine_detail(image), -1, 1)


def fine_detail(image: jax.Array) -> jax.Array:
    """Return an image minus its blur by (1, 2, 1) / 4 along both axes, with edges repeated."""
    blurred = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for axis in (1, 2):
        blurred, _, _ = level_edge_spot(blurred, axis=axis)
    return image - blurred


def _magnitude(x: jax.Array) -> jax.Array:
    # The gradient of a plain absolute value is NaN at 0.
    return jnp.sqrt(x.real**2 + x.imag**2 + 1e-12)


def _shrink(x: jax.Array, factor: int) -> jax.Array:
    """Return the means of squares; rows and columns that do not fill a square are dropped."""
    n, h, w, c = x.shape
    h, w = h // factor, w // factor
    x = x[:, : h * factor, : w * factor]
    return x.reshape(n, h, factor, w, factor, c).mean((2, 4))


def _local_energy(x: jax.Array) -> jax.Array:
    return jnp.sqrt(blur(x**2, window=_TEXTURE_WINDOW) + 1e-6)  # keeps the gradient at 0 finite


def _project_patches(x: jax.Array, key: jax.Array) -> jax.Array:
    """Project every third patch, from a random one on, onto random kernels of unit length."""
    bands = texture_bands(x)
    kernel_key, offset_key = jax.random.split(key)
    kernel = _random_kernel(kernel_key, (3, 3, bands.shape[-1], _PATCH_PROJECTIONS), bands.dtype)
    # Convolve densely, then subsample: a strided convolution has a slow gradient on a CPU.
    x = lax.conv_general_dilated(
        bands, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return _subsample(x, _PATCH_STRIDE, offset_key)


def _random_kernel(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Draw a kernel whose weights have unit length for each output."""
    kernel = jax.random.normal(key, shape, dtype)
    inputs = tuple(range(len(shape) - 1))
    return kernel / jnp.sqrt(jnp.sum(kernel**2, inputs, keepdims=True))


def _sliced_distance(a: jax.Array, b: jax.Array, window: int) -> jax.Array:
    """Return the mean squared Wasserstein distance of each channel of (n, h, w, c), in windows."""
    a, b = (_split_windows(x, window) for x in (a, b))  # (n, i, j, c, pixels)
    # In one dimension the optimal transport pairs the k-th smallest values.
    return jnp.mean((jnp.sort(a, axis=-1) - jnp.sort(b, axis=-1)) ** 2)


def _subsample(x: jax.Array, stride: int, key: jax.Array) -> jax.Array:
    """Take one place of every `stride` along both sides, from a random one on."""
    top, left = jax.random.randint(key, (2,), 0, stride)
    n, h, w, c = x.shape
    x = lax.dynamic_slice(x, (0, top, left, 0), (n, h + 1 - stride, w + 1 - stride, c))
    return x[:, ::stride, ::stride]


def _split_windows(x: jax.Array, size: int) -> jax.Array:
    """Split (n, h, w, c) into windows with sides of about `size`, (n, i, j, c, pixels)."""
    n, h, w, c = x.shape
    rows, columns = (max(round(side / size), 1) for side in (h, w))
    height, width = h // rows, w // columns
    x = x[:, : rows * height, : columns * width]
    x = x.reshape(n, rows, height, columns, width, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(n, rows, columns, c, height * width)

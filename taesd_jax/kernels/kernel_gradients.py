"""A convolution whose kernel gradient is fast on CPUs.

XLA computes the gradient of a kernel as a convolution whose channels are the images of the batch,
which are few and far apart in memory. Here the channels are the image's columns, side by side.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from .forms import Padding, convolve


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_fast_kernel_grad(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> jax.Array:
    """Compute what `convolve` does without groups, with a kernel gradient that is fast on CPUs.

    Only reverse-mode gradients are defined; `jax.jvp` raises TypeError.
    """
    return convolve(x, kernel, stride, padding)


def _backward(
    stride: int, padding: Padding, inputs: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    _, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, padding), x, kernel)

    def with_columns(g: jax.Array) -> jax.Array:
        height, width, *_ = kernel.shape
        return _sum_columns(x, g, (height, width), stride, padding).astype(kernel.dtype)

    kernel_gradient = lax.platform_dependent(g, cpu=with_columns, default=lambda g: pull(g)[1])
    return pull(g)[0], kernel_gradient


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, stride, padding), (x, kernel)


conv_fast_kernel_grad.defvjp(_forward, _backward)


def _sum_columns(
    x: jax.Array, g: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """Return k[i, j, c, o], the sum over n, y, x of in[n, s y + i, s x + j, c] g[n, y, x, o]."""
    channels, out_channels = x.shape[-1], g.shape[-1]
    height, width = size
    total = jnp.zeros((width * channels, height, out_channels), g.dtype)
    # One image at a time, so that its shifted copies fit the caches.
    total, _ = lax.scan(
        lambda total, pair: (total + _sum_image_columns(*pair, size, stride, padding), None),
        total,
        (x.astype(g.dtype), g),
    )
    return total.reshape(width, channels, height, out_channels).transpose(2, 0, 1, 3)


def _sum_image_columns(
    image: jax.Array, g: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """Return the sum of one image, (width * c, height, o)."""
    height, width = size
    row_span, column_span = (stride * (count - 1) for count in g.shape[:2])
    image = jnp.pad(image, (*padding, (0, 0))).transpose(2, 0, 1)[:, : row_span + height]
    shifted = [image[:, :, j : j + column_span + 1 : stride] for j in range(width)]
    return lax.conv_general_dilated(
        jnp.concatenate(shifted),
        g,
        window_strides=(1,),
        padding="VALID",
        rhs_dilation=(stride,),
        dimension_numbers=("NHC", "HIO", "NHC"),
    )

"""Convolutions whose kernels have quick gradients on CPUs.

XLA's CPU compiler takes the gradient of a kernel as a convolution whose features are the images of
the batch, a few numbers that it gathers one by one. Here they are the columns, which lie side by
side.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ..kernels import Padding, convolve


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_quickly(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Return what `convolve` returns; its kernel's gradient is quick on CPUs, see this module.

    Gradients are those of reverse mode; `jax.jvp` refuses it. Arguments are those of `convolve`.
    """
    return convolve(x, kernel, stride, padding)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: Padding, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    _, of_input = jax.vjp(lambda x: convolve(x, kernel, stride, padding), x)

    def by_xla(x: jax.Array, g: jax.Array) -> jax.Array:
        _, of_kernel = jax.vjp(lambda kernel: convolve(x, kernel, stride, padding), kernel)
        return of_kernel(g)[0]

    def by_columns(x: jax.Array, g: jax.Array) -> jax.Array:
        height, width, *_ = kernel.shape
        return _sum_columns(x, g, (height, width), stride, padding).astype(kernel.dtype)

    return of_input(g)[0], lax.platform_dependent(x, g, cpu=by_columns, default=by_xla)


convolve_quickly.defvjp(_forward, _backward)


def _sum_columns(
    x: jax.Array, g: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """Return k[i, j, c, o], the sum over n, y, x of in[n, s y + i, s x + j, c] g[n, y, x, o]."""
    _, rows, columns, out_channels = g.shape
    height, width = size
    reach = tuple(stride * (count - 1) for count in (rows, columns))

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        image, g = pair
        image = jnp.pad(image, (*padding, (0, 0))).transpose(2, 0, 1)[:, : reach[0] + height]
        shifted = [image[:, :, j : j + reach[1] + 1 : stride] for j in range(width)]
        part = lax.conv_general_dilated(  # (width * c, height, o)
            jnp.concatenate(shifted),
            g,
            window_strides=(1,),
            padding="VALID",
            rhs_dilation=(stride,),
            dimension_numbers=("NHC", "HIO", "NHC"),
        )
        return total + part, None

    channels = x.shape[-1]
    total = jnp.zeros((width * channels, height, out_channels), g.dtype)
    # One image at a time: what is shifted and turned fits the caches.
    total, _ = lax.scan(add, total, (x.astype(g.dtype), g))
    return total.reshape(width, channels, height, out_channels).transpose(2, 0, 1, 3)

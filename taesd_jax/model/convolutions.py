"""Convolutions as Flax NNX modules, on NHWC activations, and the rounding around them.

A module computes in the dtype of its input and casts its parameters to it, so that parameters may
be stored in another dtype. In half precision what enters a convolution is rounded; its sums and
the biases, skips and activations behind it are float32 and rounded once, which keeps the error at
PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

# Zeros above and below, and left and right.
Padding = tuple[tuple[int, int], tuple[int, int]]
# What `convolve` does: x, kernel, stride and padding -> result.
Convolve = Callable[[jax.Array, jax.Array, int, Padding], jax.Array]


def widen(x: jax.Array) -> jax.Array:
    """Return x in float32, or in float64 if it is that."""
    return x.astype(_wide(x.dtype))


def _wide(dtype: DTypeLike) -> DTypeLike:
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def narrow(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Round x to dtype, always: XLA may leave out a plain cast there and back, but not this.

    Without it the bits of half-precision results would depend on what XLA fuses.
    """
    info = jnp.finfo(dtype)
    if info.bits < 32:
        x = lax.reduce_precision(widen(x), exponent_bits=info.nexp, mantissa_bits=info.nmant)
    return x.astype(dtype)


def ones_for(x: jax.Array) -> jax.Array:
    """Return ones that vmap maps and a mesh shards as x; `jnp.ones_like` does not promise that."""
    return (jnp.isnan(x) | True).astype(x.dtype)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Return the convolution of x, (n, h, w, c), with a kernel (rows, columns, c, o).

    Args:
        x: Activations.
        kernel: In the dtype of x.
        stride: Step between outputs, along both axes.
        padding: Zeros above and below, and left and right.

    Returns:
        (n, h', w', o), float32, or float64 of float64.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=_wide(x.dtype),
    )


class Conv(nnx.Module):
    """Convolve with zero padding that keeps the size at stride 1.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        size: Side of the kernel, odd.
        stride: Step between outputs.
        use_bias: Whether to add a bias.
        param_dtype: Dtype of the parameters.
        rngs: Random numbers for the initial parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int = 3,
        *,
        stride: int = 1,
        use_bias: bool = True,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.lecun_normal()
        shape = (size, size, in_channels, out_channels)
        self.kernel = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros(out_channels, param_dtype)) if use_bias else None
        self.stride = stride
        self.convolve: Convolve = convolve  # in training one with a quicker gradient

    def __call__(
        self, x: jax.Array, *, pad_rows: bool = True, pad_columns: bool = True
    ) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, h, w, out_channels), or half the size rounded up.

        The result is float32 whatever the input's dtype, for what is added next. Without padding
        x brings its rows or columns of context, and the result has that many less.
        """
        kernel = self.kernel[...].astype(x.dtype)
        # Written out because "SAME" pads only below and right at stride 2, PyTorch on all sides.
        pad = (kernel.shape[0] // 2, kernel.shape[0] // 2)
        padding = (pad if pad_rows else (0, 0), pad if pad_columns else (0, 0))
        y = self.convolve(x, kernel, self.stride, padding)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype).reshape(1, 1, 1, -1)


class UpsampleConv(nnx.Module):
    """Enlarge twice by nearest neighbour, then convolve 3x3 without bias.

    In one dimension, with a kernel (a, b, c) and differences d[i] = x[i + 1] - x[i], zero padded,
    the result is (a + b + c) x[i] - a d[i - 1] at even places and (a + b + c) x[i] + c d[i] at odd
    ones. In two dimensions that is nine 1x1 products on x and its differences in place of the 36
    that a convolution of the enlarged input takes. In half precision the differences would be
    rounded once more, so the convolution is done as it stands.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, in_channels, out_channels), param_dtype))

    def __call__(
        self, x: jax.Array, *, pad_rows: bool = True, pad_columns: bool = True
    ) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, 2h, 2w, out_channels).

        Without padding x brings a row or column of context on each side, and h and w count the
        others.
        """
        kernel = self.kernel[...].astype(x.dtype)
        if jnp.finfo(x.dtype).bits < 32:
            pad = [(1, 1) if wanted else (0, 0) for wanted in (pad_rows, pad_columns)]
            return _enlarge_and_convolve(jnp.pad(x, ((0, 0), *pad, (0, 0))), kernel)
        return _nine_products(x, kernel, pad_rows, pad_columns)


def _enlarge_and_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, 1:-1, 1:-1]
    return narrow(convolve(x, kernel, 1, ((0, 0), (0, 0))), x.dtype)


def _nine_products(x: jax.Array, kernel: jax.Array, pad_rows: bool, pad_columns: bool) -> jax.Array:
    # k[row][column], each (c, o): before, whole and after of both dimensions.
    k = [_taps(row) for row in _taps(kernel)]
    above, x, below = _differences(x, 1, pad_rows)
    left, center, right = (
        _product(part, k[1][i]) for i, part in enumerate(_differences(x, 2, pad_columns))
    )
    y00, y01 = center + left, center + right
    rows = []
    for part, taps in ((above, k[0]), (below, k[2])):
        left, center, right = (
            _product(part, taps[i]) for i, part in enumerate(_differences(part, 2, pad_columns))
        )
        rows.append(jnp.stack([y00 + center + left, y01 + center + right], axis=3))
    y = jnp.stack(rows, axis=2)
    n, h, w, o = center.shape
    # Each reshape merges one pair of (n, h, 2, w, 2, o): explicit shardings follow no more at once.
    return y.reshape(n, 2 * h, w, 2, o).reshape(n, 2 * h, 2 * w, o)


def _differences(x: jax.Array, axis: int, pad: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return x[i] - x[i - 1], x[i] and x[i + 1] - x[i], all of one size."""
    if pad:
        # lax.pad moves x by one and keeps its size: where that axis is sharded, only edges travel.
        zero = jnp.zeros((), x.dtype)
        before, after = (
            lax.pad(x, zero, [(*shift, 0) if i == axis else (0, 0, 0) for i in range(4)])
            for shift in ((1, -1), (-1, 1))
        )
    else:
        size = x.shape[axis]
        before, x, after = (
            lax.slice_in_dim(x, start, size - 2 + start, axis=axis) for start in range(3)
        )
    return x - before, x, after - x


def _taps(kernel: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return -kernel[0], kernel[0] + kernel[1] + kernel[2], kernel[2]


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # One product for each example: its bits then do not depend on the size of the batch.
    n, h, w, c = x.shape
    kernel = kernel[None] * ones_for(x[:, :1, 0, :1])  # (n, c, o)
    return jnp.einsum("npc,nco->npo", x.reshape(n, h * w, c), kernel).reshape(n, h, w, -1)

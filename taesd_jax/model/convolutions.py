"""Convolutions as Flax NNX modules, on NHWC activations.

A module computes in the dtype of its input and casts its parameters to it, so that parameters may
be stored in another dtype. How half precision is summed and rounded is the platform's: `kernels`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from ..kernels import (
    XLA,
    Convolve,
    ConvSpec,
    Engine,
    Padding,
    conv_in_float32,
    fused_conv,
    is_half,
)


def ones_for(x: jax.Array) -> jax.Array:
    """Return ones that vmap maps and a mesh shards as x; `jnp.ones_like` does not promise that."""
    return (jnp.isnan(x) | True).astype(x.dtype)


def _pad(size: int, *, rows: bool, columns: bool) -> Padding:
    # Written out because "SAME" pads only below and right at stride 2, PyTorch on all sides.
    pad = (size // 2, size // 2)
    return (pad if rows else (0, 0)), (pad if columns else (0, 0))


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
        self.engine = XLA
        self.convolve: Convolve | None = None  # in training one with a quicker gradient

    def __call__(
        self,
        x: jax.Array,
        *,
        skip: jax.Array | None = None,
        activation: str | None = None,
        rounded: bool = True,
        pad_rows: bool = True,
        pad_columns: bool = True,
    ) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, h, w, out_channels), or half the size rounded up.

        Args:
            x: Input. Without padding it brings its rows or columns of context, and the result has
                that many less.
            skip: Added to the result.
            activation: What the sum goes through, by its name.
            rounded: Whether the result has the dtype of x, or is left in that of the sums.
            pad_rows: Whether to pad above and below with zeros.
            pad_columns: Whether to pad left and right with zeros.
        """
        kernel = self.kernel[...]
        bias = None if self.bias is None else self.bias[...]
        spec = ConvSpec(
            stride=self.stride,
            padding=_pad(kernel.shape[0], rows=pad_rows, columns=pad_columns),
            activation=activation,
            rounded=rounded,
            engine=self.engine,
        )
        if self.convolve is not None:
            return conv_in_float32(x, kernel, bias, skip, spec=spec, convolve=self.convolve)
        return fused_conv(x, kernel, bias, skip, spec=spec)


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
        self.engine = XLA

    def __call__(
        self,
        x: jax.Array,
        *,
        pad_rows: bool = True,
        pad_columns: bool = True,
    ) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, 2h, 2w, out_channels).

        Without padding x brings a row or column of context on each side, and h and w count the
        others.
        """
        return upsample_conv(
            x,
            self.kernel[...],
            pad_rows=pad_rows,
            pad_columns=pad_columns,
            engine=self.engine,
        )


def upsample_conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    pad_rows: bool = True,
    pad_columns: bool = True,
    engine: Engine = XLA,
) -> jax.Array:
    """Do what `UpsampleConv` does, with its kernel."""
    if not is_half(x.dtype):
        return _nine_products(x, kernel.astype(x.dtype), pad_rows, pad_columns)
    spec = ConvSpec(
        padding=_pad(3, rows=pad_rows, columns=pad_columns),
        upsample=True,
        # The convolution needs one pixel of a context that is enlarged twice.
        crop=(int(not pad_rows), int(not pad_columns)),
        engine=engine,
    )
    return fused_conv(x, kernel, spec=spec)


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

"""The forms of a convolution with the bias, skip and activation behind it, in XLA's operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from .engine import XLA, Engine
from .rounding import reduce_to, upcast, wide_dtype

# Zeros above and below, and left and right.
Padding = tuple[tuple[int, int], tuple[int, int]]
# What `convolve` does: x, kernel, stride and padding -> result.
Convolve = Callable[[jax.Array, jax.Array, int, Padding], jax.Array]

# From [0, 1] to [-1, 1], as the last layer of a decoder ends.
TO_SIGNED = "to_signed"


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """What a convolution does beside its arrays.

    Attributes:
        stride: Step between outputs, along both axes.
        padding: Zeros above and below, and left and right.
        upsample: Whether the input is enlarged twice by nearest neighbour before it is padded.
        crop: Rows and columns to leave out on each side of the enlarged input.
        activation: What the sum goes through, by its name, see `activation`; None for nothing.
        rounded: Whether the result has the dtype of the input, or is left in that of the sums.
        engine: What serves it in half precision.
    """

    stride: int = 1
    padding: Padding = ((1, 1), (1, 1))
    upsample: bool = False
    crop: tuple[int, int] = (0, 0)
    activation: str | None = None
    rounded: bool = True
    engine: Engine = XLA


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return an activation by its name in diffusers; "gelu" is the exact one."""
    return {
        "relu": jax.nn.relu,
        "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "mish": jax.nn.mish,
        TO_SIGNED: lambda x: x * 2 - 1,
    }[name]


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Return the convolution of x, (n, h, w, c), with a kernel (rows, columns, c, o).

    Args:
        x: Activations.
        kernel: In the dtype of x; one of (rows, columns, c / groups, o) convolves groups of
            channels apart.
        stride: Step between outputs, along both axes.
        padding: Zeros above and below, and left and right.

    Returns:
        (n, h', w', o), float32, or float64 of float64.
    """
    return _convolve(x, kernel, stride, padding, wide_dtype(x.dtype))


def conv_in_float32(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    skip: jax.Array | None,
    *,
    spec: ConvSpec,
    convolve: Convolve = convolve,
) -> jax.Array:
    """Return activation(convolution of x + bias + skip), summed in float32 and rounded once.

    Args:
        x: (n, h, w, c).
        kernel: (rows, columns, c, o).
        bias: (o,).
        skip: (n, h', w', o).
        spec: What is done.
        convolve: The convolution itself; in training one with a quicker gradient.
    """
    y = convolve(_enlarge(x, spec), kernel.astype(x.dtype), spec.stride, spec.padding)
    y = _add(y, bias, skip)
    if spec.activation:
        y = activation(spec.activation)(y)
    return reduce_to(y, x.dtype) if spec.rounded else y


def conv_in_half(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    skip: jax.Array | None,
    *,
    spec: ConvSpec,
) -> jax.Array:
    """Return what `conv_in_float32` does, in half precision throughout, as libraries fuse it."""
    if spec.activation == TO_SIGNED:
        kernel, bias = fold_to_signed(kernel, bias)
    y = _convolve(_enlarge(x, spec), kernel.astype(x.dtype), spec.stride, spec.padding, x.dtype)
    y = _add(y, bias, skip)
    if spec.activation == "relu":
        y = jax.nn.relu(y)
    elif spec.activation and spec.activation != TO_SIGNED:
        y = activation(spec.activation)(upcast(y)).astype(x.dtype)
    return y if spec.rounded else upcast(y)


def fold_to_signed(kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return kernel and bias (o,) of a convolution whose result is 2 y - 1 of that of these.

    What is rounded then is the image, and not a value half as large that is doubled afterwards.
    """
    zeros = jnp.zeros(kernel.shape[-1], jnp.float32)
    return kernel * 2, (zeros if bias is None else upcast(bias)) * 2 - 1


def _convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dtype: DTypeLike
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        preferred_element_type=dtype,
    )


def _add(y: jax.Array, bias: jax.Array | None, skip: jax.Array | None) -> jax.Array:
    if bias is not None:
        y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
    return y if skip is None else y + skip.astype(y.dtype)


def _enlarge(x: jax.Array, spec: ConvSpec) -> jax.Array:
    if not spec.upsample:
        return x
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)  # (n, 2h, 2w, c)
    rows, columns = spec.crop
    return x[:, rows : x.shape[1] - rows, columns : x.shape[2] - columns]

"""Half precision: what it is, and how each platform rounds to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike


def is_half(dtype: DTypeLike) -> bool:
    """Return whether a floating-point dtype has fewer than 32 bits."""
    return jnp.finfo(dtype).bits < 32


def wide_dtype(dtype: DTypeLike) -> DTypeLike:
    """Return the dtype of sums: float32, or float64 for that."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def upcast(x: jax.Array) -> jax.Array:
    """Return x in float32, or in float64 if it is that."""
    return x.astype(wide_dtype(x.dtype))


def round_to(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Round x to dtype, always: XLA may leave out a plain cast there and back, but not this.

    Without it the bits of half-precision results would depend on what XLA fuses. On GPUs it is a
    plain cast, which keeps nothing from being fused into cuDNN's convolutions.
    """
    if not is_half(dtype):
        return x.astype(dtype)

    def cast(x: jax.Array) -> jax.Array:
        return x.astype(dtype)

    return lax.platform_dependent(x, cuda=cast, rocm=cast, default=lambda x: reduce_to(x, dtype))


def reduce_to(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Round x to dtype, always, on every platform."""
    info = jnp.finfo(dtype)
    if info.bits < 32:
        x = lax.reduce_precision(upcast(x), exponent_bits=info.nexp, mantissa_bits=info.nmant)
    return x.astype(dtype)

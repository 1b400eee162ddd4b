"""The published building blocks as Flax NNX modules, on NHWC activations.

A module computes in the dtype of its input and casts its parameters to it, so that parameters may
be stored in another dtype. In half precision what enters a convolution is rounded; its sums and
the biases, skips and activations behind it are float32 and rounded once, which keeps the error at
PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from .layers import POOL_EPSILON, POOL_GROUPS


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return an activation by its name in diffusers; "gelu" is the exact one."""
    return {
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "mish": jax.nn.mish,
    }[name]


def clamp(latent: jax.Array) -> jax.Array:
    """Squash a latent smoothly into (-3, 3): tanh(x / 3) * 3."""
    return jnp.tanh(latent / 3) * 3


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

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, h, w, out_channels), or half the size rounded up.

        The result is float32 whatever the input's dtype, for what is added next.
        """
        kernel = self.kernel[...].astype(x.dtype)
        # Written out because "SAME" pads only below and right at stride 2, PyTorch on all sides.
        pad = (kernel.shape[0] // 2, kernel.shape[0] // 2)
        y = lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=(pad, pad),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=_wide(x.dtype),
        )
        return y if self.bias is None else y + self.bias[...].astype(y.dtype).reshape(1, 1, 1, -1)


class GroupNorm(nnx.Module):
    """Normalise groups of channels over the whole image, then scale and shift (arXiv:1803.08494).

    `nnx.GroupNorm` lets XLA choose the order of its sums by the batch size. Here each example gives
    the same bits in every batch, which slicing and sharding rely on.

    Args:
        channels: Width of input and output, in `POOL_GROUPS` groups.
        param_dtype: Dtype of the parameters.
    """

    def __init__(self, channels: int, *, param_dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (n, h, w, channels) to the same shape."""
        x = x - _group_mean(x)
        x = x * lax.rsqrt(_group_mean(x * x) + POOL_EPSILON)
        scale, bias = (p[...].astype(x.dtype).reshape(1, 1, 1, -1) for p in (self.scale, self.bias))
        return x * scale + bias


def _group_mean(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    # A product with ones: batched products sum each example alone, in an order of its own.
    pixels = jnp.einsum(
        "np,npc->nc", jnp.ones((n, h * w), x.dtype), x.reshape(n, h * w, c), precision="highest"
    )
    mean = pixels.reshape(n, POOL_GROUPS, -1).sum(-1) / (h * w * c // POOL_GROUPS)
    return jnp.repeat(mean, c // POOL_GROUPS, axis=1)[:, None, None]  # (n, 1, 1, c)


class Block(nnx.Module):
    """Add three 3x3 convolutions to a skip, as in madebyollin/taesd.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output; the skip is a 1x1 convolution where it differs.
        pool_channels: Hidden width of taef2's branch x + pool(x), 0 for none.
        act_fn: Activation between the convolutions; the one behind the sum is always a ReLU.
        param_dtype: Dtype of the parameters.
        rngs: Random numbers for the initial parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        pool_channels: int = 0,
        act_fn: str = "relu",
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = {"param_dtype": param_dtype, "rngs": rngs}
        self.act_fn = act_fn
        self.has_pool = bool(pool_channels)
        if pool_channels:
            self.pool_0 = Conv(in_channels, pool_channels, 1, use_bias=False, **options)
            self.pool_1 = GroupNorm(pool_channels, param_dtype=param_dtype)
            self.pool_3 = Conv(pool_channels, in_channels, 1, use_bias=False, **options)
        self.conv_0 = Conv(in_channels, out_channels, **options)
        self.conv_2 = Conv(out_channels, out_channels, **options)
        self.conv_4 = Conv(out_channels, out_channels, **options)
        self.has_skip = in_channels != out_channels
        if self.has_skip:
            self.skip = Conv(in_channels, out_channels, 1, use_bias=False, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, h, w, out_channels)."""
        act, dtype = activation(self.act_fn), x.dtype
        if self.has_pool:
            pooled = narrow(jax.nn.relu(self.pool_1(self.pool_0(x))), dtype)
            x = narrow(widen(x) + self.pool_3(pooled), dtype)
        y = narrow(act(self.conv_0(x)), dtype)
        y = narrow(act(self.conv_2(y)), dtype)
        y = self.conv_4(y) + (self.skip(x) if self.has_skip else widen(x))
        return narrow(jax.nn.relu(y), dtype)


class UpsampleConv(nnx.Module):
    """Enlarge twice by nearest neighbour, then convolve 3x3 without bias."""

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

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, 2h, 2w, out_channels)."""
        y = lax.conv_general_dilated(
            jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2),
            self.kernel[...].astype(x.dtype),
            window_strides=(1, 1),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=_wide(x.dtype),
        )
        return narrow(y, x.dtype)

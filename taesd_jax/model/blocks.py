"""The published building blocks as Flax NNX modules, on NHWC activations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from ..kernels import round_to
from .convolutions import Conv, UpsampleConv, ones_for
from .layers import POOL_EPSILON, POOL_GROUPS


def clamp(latent: jax.Array) -> jax.Array:
    """Squash a latent smoothly into (-3, 3): tanh(x / 3) * 3."""
    return jnp.tanh(latent / 3) * 3


def apply_conv(conv: Conv | UpsampleConv, x: jax.Array, **options: Any) -> jax.Array:
    """Apply a convolution to a whole image; what runs an image in parts has its own."""
    return conv(x, **options)


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
    x = x.reshape(n, h * w, c)
    # A GPU sums while it reads; a product would first be written out.
    sums = functools.partial(jnp.sum, axis=1)
    pixels = lax.platform_dependent(x, cuda=sums, rocm=sums, default=_sum_by_product)  # (n, c)
    mean = pixels.reshape(n, POOL_GROUPS, -1).sum(-1) / (h * w * c // POOL_GROUPS)
    return jnp.repeat(mean, c // POOL_GROUPS, axis=1)[:, None, None]  # (n, 1, 1, c)


def _sum_by_product(x: jax.Array) -> jax.Array:
    # Batched products sum each example alone, in an order of its own.
    return jnp.einsum("np,npc->nc", ones_for(x[:, :, 0]), x, precision="highest")


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

    def __call__(
        self,
        x: jax.Array,
        *,
        convolve: Callable[..., jax.Array] = apply_conv,
        align_skip: Callable[[jax.Array], jax.Array] = lambda x: x,
    ) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, h, w, out_channels).

        Args:
            x: Input.
            convolve: Applies each of the three 3x3 convolutions as `apply_conv` does, for callers
                that hold x in parts.
            align_skip: Applied to the skip, to keep step with `convolve`.
        """
        if self.has_pool:
            pooled = jax.nn.relu(self.pool_1(self.pool_0(x, rounded=False)))
            x = self.pool_3(round_to(pooled, x.dtype), skip=x)
        y = convolve(self.conv_0, x, activation=self.act_fn)
        y = convolve(self.conv_2, y, activation=self.act_fn)
        x = align_skip(x)
        skip = self.skip(x, rounded=False) if self.has_skip else x
        return convolve(self.conv_4, y, skip=skip, activation="relu")

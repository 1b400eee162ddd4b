"""The published building blocks as Flax NNX modules, on NHWC activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from .convolutions import Conv, narrow, ones_for, widen
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
    x = x.reshape(n, h * w, c)
    pixels = jnp.einsum("np,npc->nc", ones_for(x[:, :, 0]), x, precision="highest")
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

    def __call__(
        self,
        x: jax.Array,
        *,
        convolve: Callable[[Conv, jax.Array], jax.Array] = lambda conv, x: conv(x),
        wait: Callable[[jax.Array], jax.Array] = lambda x: x,
    ) -> jax.Array:
        """Map (n, h, w, in_channels) to (n, h, w, out_channels).

        Args:
            x: Input.
            convolve: Applies each of the three 3x3 convolutions, for callers that hold x in parts.
            wait: Applied to the skip, to keep step with `convolve`.
        """
        act, dtype = activation(self.act_fn), x.dtype
        if self.has_pool:
            pooled = narrow(jax.nn.relu(self.pool_1(self.pool_0(x))), dtype)
            x = narrow(widen(x) + self.pool_3(pooled), dtype)
        y = narrow(act(convolve(self.conv_0, x)), dtype)
        y = narrow(act(convolve(self.conv_2, y)), dtype)
        y, x = convolve(self.conv_4, y), wait(x)
        return narrow(jax.nn.relu(y + (self.skip(x) if self.has_skip else widen(x))), dtype)

"""A component as one pure function that takes any number of frames and a memory of those before."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from ..kernels import ConvSpec, activation, fused_conv, round_to, upcast
from ..model.blocks import clamp
from ..model.convolutions import upsample_conv
from ..model.layers import Component, Params
from ..model.modules import to_unsigned
from .config import VideoConfig
from .layers import ConvPart, VideoLayer, build_layers
from .params import path_of

# {"layers_3": (n, h, w, c), ...}: for each memory block its input of the last frame.
State = dict[str, jax.Array]

# Pixels of a map, the size of an image of TAESD at 512x512 before its last upsample, from which on
# frames fill a device one by one.
_LARGE_MAP = 2**14


def init_state(
    size: tuple[int, int, int],
    *,
    config: VideoConfig,
    component: Component = "decoder",
    dtype: DTypeLike = jnp.float32,
) -> State:
    """Return the memory before the first frame: zeros.

    Zeroing one example of a batch, `state[:, i]` of every leaf, starts that example's video anew.

    Args:
        size: (n, h, w) of the latents, for both components.
        config: Architecture.
        component: "decoder" or "encoder".
        dtype: Dtype of the computation.

    >>> state = init_state((1, 4, 6), config=VideoConfig())
    >>> {name: leaf.shape for name, leaf in state.items() if name in ("layers_3", "layers_15")}
    {'layers_3': (1, 4, 6, 256), 'layers_15': (1, 16, 24, 64)}
    """
    shapes = state_shapes(size, config=config, component=component)
    return {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}


def state_shapes(
    size: tuple[int, int, int], *, config: VideoConfig, component: Component = "decoder"
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what `init_state` returns."""
    n, h, w = size
    if component == "encoder":
        scale = config.spatial_factor // config.patch_size
        h, w = scale * h, scale * w
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in build_layers(component, config):
        if layer.kind == "memory_block":
            shapes[layer.name] = (n, h, w, layer.channels)
        elif layer.kind in ("upsample_conv", "pixel_shuffle"):
            h, w = 2 * h, 2 * w
        elif layer.kind == "conv" and layer.convs[0].stride == 2:
            h, w = h // 2, w // 2
    return shapes


def advance(
    params: Params,
    state: State,
    x: jax.Array,
    *,
    config: VideoConfig,
    component: Component = "decoder",
) -> tuple[State, jax.Array]:
    """Run frames through a component, in the dtype of x; not compiled, and nothing is checked.

    Args:
        params: Those of the component.
        state: Memory of the frames before, from `init_state` or from here.
        x: Latents (n, k, h, w, z), or for an encoder videos (n, k * time_factor, height, width, 3).
        config: Architecture.
        component: "decoder" or "encoder".

    Returns:
        The memory of these frames, and (n, k * time_factor, height, width, 3), of which
        `frame_indices` belong to the video, or for an encoder (n, k, h, w, z).
    """
    layers = build_layers(component, config)
    blocks = [i for i, layer in enumerate(layers) if layer.kind == "memory_block"]
    grows = [i for i, layer in enumerate(layers) if layer.kind == "time_grow"]
    first, last = (blocks[0], len(layers)) if component == "encoder" else (0, grows[-1] + 1)
    if component == "encoder":
        x = x if config.signed_images else to_unsigned(x)
        x = _pixel_unshuffle(x, config.patch_size)
        x = _apply_apart(params, layers[:first], x, frames=config.time_pool[0])
    new_state: State = {}
    for layer in layers[first:last]:
        if layer.kind == "memory_block":
            past = jnp.concatenate([state[layer.name][:, None], x[:, :-1]], axis=1)
            new_state[layer.name] = x[:, -1]
            x = _memory_block(params, layer, x, past)
        else:
            x = _apply_layer(params, layer, x)
    if component == "decoder":
        x = _pixel_shuffle(_apply_apart(params, layers[last:], x), config.patch_size)
    return new_state, x


def _apply_apart(
    params: Params, layers: Sequence[VideoLayer], x: jax.Array, frames: int = 1
) -> jax.Array:
    """Run layers that carry nothing in time, of large maps `frames` frames at a time.

    At full resolution they would take most of the memory of a step.
    """

    def run(x: jax.Array) -> jax.Array:
        for layer in layers:
            x = _apply_layer(params, layer, x)
        return x

    n, t, h, w, c = x.shape
    if h * w < _LARGE_MAP or t == frames:
        return run(x)
    groups = jnp.moveaxis(x.reshape(n, t // frames, frames, h, w, c), 1, 0)
    return jnp.moveaxis(lax.map(run, groups)[:, :, 0], 0, 1)


def _apply_layer(params: Params, layer: VideoLayer, x: jax.Array) -> jax.Array:
    if layer.kind == "clamp":
        return round_to(clamp(upcast(x)), x.dtype)
    if layer.kind == "activation":
        return activation(layer.activation)(x)
    if layer.kind == "pixel_shuffle":
        return _pixel_shuffle(x, layer.factor)
    (part,) = layer.convs
    if layer.kind == "upsample_conv":
        return _unfold(upsample_conv(_fold(x), params[layer.name]["kernel"]), x)
    if layer.kind == "time_pool":
        x = _merge_frames(x, layer.factor)
    x = _unfold(_convolve(params, layer, part, _fold(x)), x)
    return _split_frames(x, layer.factor) if layer.kind == "time_grow" else x


def _memory_block(params: Params, layer: VideoLayer, x: jax.Array, past: jax.Array) -> jax.Array:
    y = _fold(jnp.concatenate([x, past], axis=-1))
    *parts, last = layer.convs
    for part in parts:
        y = _convolve(params, layer, part, y)
    return _unfold(_convolve(params, layer, last, y, skip=_fold(x)), x)


def _convolve(
    params: Params,
    layer: VideoLayer,
    part: ConvPart,
    x: jax.Array,
    skip: jax.Array | None = None,
) -> jax.Array:
    for word in path_of(layer, part):
        params = params[word]
    pad = (part.size // 2, part.size // 2)
    spec = ConvSpec(stride=part.stride, padding=(pad, pad), activation=part.activation)
    return fused_conv(x, params["kernel"], params.get("bias"), skip, spec=spec)


def _fold(x: jax.Array) -> jax.Array:
    """Take frames as a batch: (n, t, h, w, c) -> (n * t, h, w, c)."""
    return x.reshape(-1, *x.shape[2:])


def _unfold(y: jax.Array, like: jax.Array) -> jax.Array:
    return y.reshape(*like.shape[:2], *y.shape[1:])


def _merge_frames(x: jax.Array, factor: int) -> jax.Array:
    """Stack the channels of `factor` frames, the earliest first."""
    n, t, h, w, c = x.shape
    x = jnp.moveaxis(x.reshape(n, t // factor, factor, h, w, c), 2, 4)
    return x.reshape(n, t // factor, h, w, factor * c)


def _split_frames(x: jax.Array, factor: int) -> jax.Array:
    """Undo `_merge_frames`."""
    n, t, h, w, c = x.shape
    x = jnp.moveaxis(x.reshape(n, t, h, w, factor, c // factor), 4, 2)
    return x.reshape(n, t * factor, h, w, c // factor)


def _pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Spread channels, in PyTorch's order (c, row, column), over squares of pixels."""
    n, t, h, w, c = x.shape
    c //= factor**2
    x = x.reshape(n, t, h, w, c, factor, factor).transpose(0, 1, 2, 5, 3, 6, 4)
    return x.reshape(n, t, factor * h, factor * w, c)


def _pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Undo `_pixel_shuffle`."""
    n, t, h, w, c = x.shape
    x = x.reshape(n, t, h // factor, factor, w // factor, factor, c)
    x = x.transpose(0, 1, 2, 4, 6, 3, 5)
    return x.reshape(n, t, h // factor, w // factor, factor**2 * c)

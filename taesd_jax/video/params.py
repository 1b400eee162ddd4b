"""Params of a component: their shapes, their places in the tree, and random ones."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..model.layers import COMPONENTS, Component, Params
from .config import VideoConfig
from .layers import ConvPart, VideoLayer, build_layers


def init_video(
    key: jax.Array, *, config: VideoConfig, dtype: DTypeLike = jnp.float32
) -> dict[str, Params]:
    """Draw random parameters for encoder and decoder.

    Args:
        key: From `jax.random.key`.
        config: Architecture.
        dtype: Dtype of the parameters.

    Returns:
        {"encoder": ..., "decoder": ...}, nested dicts with string keys.
    """
    params = {}
    for component, component_key in zip(COMPONENTS, jax.random.split(key), strict=True):
        shapes, tree = jax.tree.flatten(abstract_params(component, config))
        keys = jax.random.split(component_key, len(shapes))
        drawn = [_draw(key, leaf.shape, dtype) for key, leaf in zip(keys, shapes, strict=True)]
        params[component] = jax.tree.unflatten(tree, drawn)
    return params


def _draw(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    if len(shape) == 1:
        return jnp.zeros(shape, dtype)
    return jax.nn.initializers.lecun_normal()(key, shape, dtype)


@functools.lru_cache(maxsize=64)
def abstract_params(component: Component, config: VideoConfig) -> Params:
    """Return a component's params as `jax.ShapeDtypeStruct`s; not to be changed.

    >>> abstract_params("decoder", VideoConfig())["layers_7"]["conv"]["kernel"].shape
    (1, 1, 256, 256)
    """
    params: Params = {}
    for layer in build_layers(component, config):
        for part in layer.convs:
            branch = params
            for word in path_of(layer, part):
                branch = branch.setdefault(word, {})
            depth = part.in_channels // part.groups
            shape = (part.size, part.size, depth, part.out_channels)
            branch["kernel"] = jax.ShapeDtypeStruct(shape, jnp.float32)
            if part.bias:
                branch["bias"] = jax.ShapeDtypeStruct(shape[3:], jnp.float32)
    return params


def path_of(layer: VideoLayer, part: ConvPart) -> tuple[str, ...]:
    """Return where the params of a convolution are in those of its component."""
    return (layer.name, part.name.replace(".", "_")) if part.name else (layer.name,)

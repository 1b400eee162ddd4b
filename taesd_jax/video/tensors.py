"""Tensors of video models by their published names, and their params; needs no jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..errors import CheckpointError
from ..model.layers import COMPONENTS, Component, Params
from ..weights.names import Shape, flax_name, to_flax, to_torch
from .config import VideoConfig
from .layers import build_layers


def difference(shapes: Mapping[str, Shape], config: VideoConfig) -> list[str]:
    """List the tensors in which `shapes` differ from those of `config`, a line for each.

    A component that has no tensor at all is not missed, unless both have none.
    """
    if not shapes:
        return ["  no tensors"]
    expected = tensor_shapes(config)
    present = {name.split(".")[0] for name in shapes}
    lines = [
        f"  {name}: missing"
        for name in expected
        if name not in shapes and name.split(".")[0] in present
    ]
    lines += [f"  {name}: unexpected" for name in shapes if name not in expected]
    return lines + [
        f"  {name}: expected shape {expected[name]}, got {tuple(shape)}"
        for name, shape in shapes.items()
        if name in expected and expected[name] != tuple(shape)
    ]


def tensor_shapes(config: VideoConfig) -> dict[str, Shape]:
    """Return published name -> PyTorch shape of every tensor of encoder and decoder.

    >>> tensor_shapes(VideoConfig())["decoder.7.conv.weight"]
    (256, 256, 1, 1)
    """
    shapes: dict[str, Shape] = {}
    for component in COMPONENTS:
        for layer in build_layers(component, config):
            for part in layer.convs:
                prefix = ".".join(filter(None, (component, str(layer.index), part.name)))
                depth = part.in_channels // part.groups
                shapes[f"{prefix}.weight"] = (part.out_channels, depth, part.size, part.size)
                if part.bias:
                    shapes[f"{prefix}.bias"] = (part.out_channels,)
    return shapes


def from_tensors(tensors: Mapping[str, np.ndarray], *, config: VideoConfig) -> Params:
    """Return the params of tensors by their published names, as of a PyTorch state dict.

    Args:
        tensors: Published name -> tensor.
        config: Architecture.

    Raises:
        CheckpointError: The tensors are not those of config, or hold NaN or infinity.
    """
    check_shapes({name: np.shape(tensor) for name, tensor in tensors.items()}, config)
    check_finite(tensors)
    params: Params = {}
    for name, tensor in tensors.items():
        component, key = name.split(".", 1)
        *path, leaf = flax_name(key, cast(Component, component)).split(".")
        branch = params
        for word in path:
            branch = branch.setdefault(word, {})
        branch[leaf] = to_flax(tensor)
    return params


def to_tensors(params: Params) -> dict[str, np.ndarray]:
    """Undo `from_tensors`."""
    tensors: dict[str, np.ndarray] = {}

    def walk(tree: Any, path: tuple[str, ...]) -> None:
        if isinstance(tree, Mapping):
            for word, branch in tree.items():
                walk(branch, (*path, word))
            return
        words = ".".join(path).replace("layers_", "").replace("conv_", "conv.")
        name = words.replace("kernel", "weight")
        tensors[name] = to_torch(np.asarray(tree))

    walk(params, ())
    return tensors


def check_shapes(shapes: Mapping[str, Shape], config: VideoConfig) -> None:
    """Raise CheckpointError, with every difference, unless tensors are those of a config."""
    if lines := difference(shapes, config):
        raise CheckpointError("the tensors are not those of the config:\n" + "\n".join(lines))


def check_finite(tensors: Mapping[str, np.ndarray]) -> None:
    """Raise CheckpointError with the names of tensors that hold NaN or infinity."""
    bad = [n for n, tensor in tensors.items() if not np.isfinite(tensor.astype(np.float32)).all()]
    if bad:
        raise CheckpointError(f"tensors with NaN or infinity: {', '.join(bad)}")

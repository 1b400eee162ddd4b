"""Builds a checkpoint from named tensors, all of which are accounted for before any is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError, warn
from ..model.layers import Component, Params
from . import names
from .files import DTYPES
from .names import Shape
from .recognition import difference, recognise
from .sources import variant_from_name


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        params: {"encoder": ..., "decoder": ...}, numpy arrays in the stored dtype; either
            component may be absent.
        config: Its architecture and labels.
        format: The format that it was stored in; two with a slash for a mixed pair.
    """

    params: Params
    config: AutoencoderTinyConfig
    format: str


class Part(NamedTuple):
    """Tensors of one file or state dict, read only once their names and shapes are checked.

    Attributes:
        origin: Where they come from, for messages.
        shapes: Name -> shape.
        refused: Name -> what it is, of everything that cannot be a param, such as integers.
        read: Reads tensors by name.
    """

    origin: str
    shapes: Mapping[str, Shape]
    refused: Mapping[str, str]
    read: Callable[[Collection[str]], Mapping[str, np.ndarray]]


def assemble(
    parts: Sequence[Part], *, fields: Mapping[str, Any], variant: str, origin: str
) -> Checkpoint:
    """Build a checkpoint from tensors by name.

    Args:
        parts: The tensors, a part for each file.
        fields: Content of a config.json, or {}.
        variant: A variant's name, or "", to tell equal architectures apart.
        origin: Where the tensors come from, for messages.

    Raises:
        CheckpointError: As `load`.
    """
    with _prefixed(origin):
        splits = [_split(part) for part in parts]
        shapes = _published_shapes(parts, splits)
        config = _with_fields(recognise(shapes), fields, shapes)
    # Only now: the tensors of a file that is no model may be larger than memory.
    tensors = [part.read(split.names) for part, split in zip(parts, splits, strict=True)]
    with _prefixed(origin):
        params = _params(splits, tensors)
        config = _with_scalars(config, _scalars(splits, tensors), variant)
    for part, split in zip(parts, splits, strict=True):
        if left_out := len(part.shapes.keys() | part.refused.keys()) - len(split.names):
            warn(f"{part.origin}: {left_out} tensors beside the model are left out")
    formats = {split.format for split in splits}
    return Checkpoint(params, config.replace(name_or_path=origin), "/".join(sorted(formats)))


@contextmanager
def _prefixed(origin: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error


def _split(part: Part) -> names.SplitNames:
    inside = names.unwrap((*part.shapes, *part.refused))
    if refused := [f"{n} is {part.refused[n]}" for n in inside.values() if n in part.refused]:
        allowed = ", ".join(DTYPES.values())
        raise CheckpointError(f"expected dense tensors of {allowed}; {'; '.join(refused)}")
    return names.split(inside)


def _published_shapes(
    parts: Sequence[Part], splits: Sequence[names.SplitNames]
) -> dict[Component, dict[str, Shape]]:
    """Return the PyTorch shape of each published key."""
    shapes: dict[Component, dict[str, Shape]] = {}
    origins: dict[Component, str] = {}
    for part, split in zip(parts, splits, strict=True):
        to_torch = names.to_torch_shape if split.format == "flax" else tuple
        for component, keys in split.components.items():
            if component in shapes:
                raise CheckpointError(f"two {component}s: {origins[component]}, {part.origin}")
            origins[component] = part.origin
            shapes[component] = {key: to_torch(part.shapes[name]) for key, name in keys.items()}
        for name in split.scalars.values():
            if part.shapes[name] not in ((), (1,)):
                raise CheckpointError(f"{name} must be one number, got shape {part.shapes[name]}")
    return shapes


def _params(
    splits: Sequence[names.SplitNames], tensors: Sequence[Mapping[str, np.ndarray]]
) -> Params:
    leaves = {}
    for split, stored in zip(splits, tensors, strict=True):
        for component, keys in split.components.items():
            for key, name in keys.items():
                leaf = stored[name] if split.format == "flax" else names.to_flax(stored[name])
                leaves[names.flax_name(key, component)] = leaf
    if bad := [name for name, leaf in leaves.items() if not np.isfinite(leaf.astype("f4")).all()]:
        raise CheckpointError(f"tensors with NaN or infinity: {', '.join(bad)}")
    return unflatten_dict(leaves, sep=".")


def _with_fields(
    recognised: AutoencoderTinyConfig, fields: Mapping[str, Any], shapes: Mapping[Component, Any]
) -> AutoencoderTinyConfig:
    """Return the config that `fields` describe, checked against the tensors' shapes."""
    if not fields:
        return recognised
    try:
        config = AutoencoderTinyConfig.from_dict(fields)
    except (ValueError, TypeError, RecursionError) as error:  # repr of deeply nested values
        raise CheckpointError(f"config: {error}") from error
    if lines := difference(shapes, config):
        raise CheckpointError("the config does not describe the tensors:\n" + "\n".join(lines))
    if config.raw_latent_scale is not None:
        return config
    return config.with_variant(variant_from_name(str(fields.get("_name_or_path", ""))))


def _scalars(
    splits: Sequence[names.SplitNames], tensors: Sequence[Mapping[str, np.ndarray]]
) -> tuple[float, float]:
    """Return ComfyUI's vae_scale and vae_shift, or its defaults."""
    scalars = {"vae_scale": 1.0, "vae_shift": 0.0}
    for split, stored in zip(splits, tensors, strict=True):
        scalars |= {key: float(stored[name].reshape(())) for key, name in split.scalars.items()}
    return scalars["vae_scale"], scalars["vae_shift"]


def _with_scalars(
    config: AutoencoderTinyConfig, scalars: tuple[float, float], variant: str
) -> AutoencoderTinyConfig:
    """Return config with ComfyUI's scalars, or else with the constants of a variant."""
    scale = config.raw_latent_scale
    if scalars == (1.0, 0.0):
        return config.with_variant(variant) if scale is None else config
    if scale is None:
        try:
            return config.replace(raw_latent_scale=scalars[0], raw_latent_shift=scalars[1])
        except ValueError as error:
            raise CheckpointError(f"vae_scale and vae_shift: {error}") from error
    raw = scale, config.raw_latent_shift or 0.0
    if not np.allclose(raw, scalars, rtol=1e-6, atol=0):
        raise CheckpointError(
            f"vae_scale and vae_shift are {scalars[0]:g} and {scalars[1]:g}, but the config inside "
            f"says {raw[0]:g} and {raw[1]:g}"
        )
    return config

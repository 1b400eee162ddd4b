"""Loads checkpoints strictly: every tensor is accounted for before any is read."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..model.layers import Component, Params
from . import files, names, sources
from .names import Shape
from .recognition import difference, recognise


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
        read: Reads all of them.
    """

    origin: str
    shapes: Mapping[str, Shape]
    read: Callable[[], Mapping[str, np.ndarray]]


def load(
    source: str | os.PathLike[str],
    *,
    subfolder: str = "",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Checkpoint:
    """Load a checkpoint as numpy arrays, in its stored dtype.

    The architecture is read from the names and shapes of the tensors. A file's name only tells
    taesd from taesdxl, and taesd3 from taef1, which have equal shapes. The format may be the
    original, diffusers', ComfyUI's or this package's Flax format.

    Args:
        source: A safetensors file; `PATH` for a pair `PATH_encoder.safetensors` and
            `PATH_decoder.safetensors`, or one of them; a folder; a hub id "owner/name"; or a
            variant's name such as "taesd". Files on disk come first.
        subfolder: Folder inside the folder or hub repository.
        revision: Branch, tag or commit of a hub repository.
        cache_dir: Folder of the hub's cache.
        local_files_only: Use only hub files that are already in the cache.
        token: Hub access token.

    Raises:
        CheckpointNotFoundError: There is nothing under that name.
        CheckpointError: It is not a model of this family; lists every tensor that is missing,
            unexpected or mis-shaped.
    """
    source_files = sources.find_files(
        source,
        subfolder=subfolder,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )
    headers = {path: files.read_header(path) for path in source_files.weights}
    fields = _config_inside(headers)
    if source_files.config:
        fields = files.read_json(source_files.config)
    parts = [
        Part(str(path), header.shapes, functools.partial(files.read_tensors, path, header))
        for path, header in headers.items()
    ]
    return assemble(parts, fields=fields, variant=source_files.variant, origin=os.fspath(source))


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
        splits = [names.split(part.shapes) for part in parts]
        shapes = _published_shapes(parts, splits)
        config = _with_fields(recognise(shapes), fields, shapes)
    # Only now: the tensors of a file that is no model may be larger than memory.
    tensors = [part.read() for part in parts]
    with _prefixed(origin):
        params = _params(splits, tensors)
        config = _with_scalars(config, _scalars(splits, tensors), variant)
    formats = {split.format for split in splits}
    return Checkpoint(params, config.replace(name_or_path=origin), "/".join(sorted(formats)))


@contextmanager
def _prefixed(origin: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error


def _config_inside(headers: Mapping[Path, files.Header]) -> dict[str, Any]:
    """Return the config in the metadata of files, or {}."""
    configs = {
        path: files.parse_json(text, f"{path}: its config")
        for path, header in headers.items()
        if (text := header.metadata.get("config"))
    }
    fields = next(iter(configs.values()), {})
    if any(other != fields for other in configs.values()):
        raise CheckpointError(
            f"encoder and decoder belong to different models: the configs inside "
            f"{' and '.join(map(str, configs))} differ"
        )
    return fields


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
        for name in split.scalars:
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
    return config.with_variant(sources.variant_from_name(str(fields.get("_name_or_path", ""))))


def _scalars(
    splits: Sequence[names.SplitNames], tensors: Sequence[Mapping[str, np.ndarray]]
) -> tuple[float, float]:
    """Return ComfyUI's vae_scale and vae_shift, or its defaults."""
    stored = {
        name: t[name] for split, t in zip(splits, tensors, strict=True) for name in split.scalars
    }
    scale, shift = stored.get("vae_scale", np.ones(1)), stored.get("vae_shift", np.zeros(1))
    return float(scale.reshape(())), float(shift.reshape(()))


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

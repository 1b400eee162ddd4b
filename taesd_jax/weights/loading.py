"""Loads checkpoints strictly: every tensor is accounted for before any is read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..model.layers import Component, Params
from . import files, names, sources
from .names import KeyFormat, Shape
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
        read: Reads tensors by name.
    """

    origin: str
    shapes: Mapping[str, Shape]
    read: Callable[[Sequence[str]], Mapping[str, np.ndarray]]


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
    opened = [_SafetensorsFile(path, files.read_header(path), {}) for path in source_files.weights]
    fields = _shared_fields(opened)
    if source_files.config:
        fields = files.read_json(source_files.config)
    parts = [Part(str(file.path), file.header.shapes, file.read) for file in opened]
    checkpoint = assemble(
        parts, fields=fields, variant=source_files.variant, origin=os.fspath(source)
    )
    # Only now: the tensors of a file that is no model may be larger than memory.
    for file in opened:
        files.check_digest(file.path, file.header, file.tensors)
    return checkpoint


class _SafetensorsFile(NamedTuple):
    """A file, its header, and the tensors that were read of it."""

    path: Path
    header: files.Header
    tensors: dict[str, np.ndarray]

    def read(self, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        tensors = files.read_tensors(self.path, names)
        self.tensors.update(tensors)
        return tensors


def _shared_fields(opened: Sequence[_SafetensorsFile]) -> dict[str, Any]:
    """Return the config in the metadata of the files, or {}."""
    configs = {
        file.path: files.parse_json(text, f"{file.path}: its config")
        for file in opened
        if (text := file.header.metadata.get("config"))
    }
    fields = next(iter(configs.values()), {})
    if any(other != fields for other in configs.values()):
        raise CheckpointError(
            f"encoder and decoder belong to different models: the configs inside "
            f"{' and '.join(map(str, configs))} differ"
        )
    return fields


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
    stored: dict[Component, _Stored] = {}
    scalars: dict[str, float] = {}
    try:
        for part in parts:
            format, components, extra = names.split(part.shapes)
            for component, keys in components.items():
                if component in stored:
                    origins = f"{stored[component].part.origin}, {part.origin}"
                    raise CheckpointError(f"two {component}s: {origins}")
                stored[component] = _Stored(part, format, keys)
            scalars |= _read_scalars(part, extra)
        shapes: dict[Component, dict[str, Shape]] = {
            component: tensors.shapes() for component, tensors in stored.items()
        }
        config = _with_fields(recognise(shapes), fields, shapes)
        config = _with_scalars(config, scalars, variant)
        params = {component: tensors.read() for component, tensors in stored.items()}
        _check_finite(params)
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    formats = {tensors.format for tensors in stored.values()}
    return Checkpoint(params, config.replace(name_or_path=origin), "/".join(sorted(formats)))


class _Stored(NamedTuple):
    """One component of a part; `keys` maps a published key to its name there."""

    part: Part
    format: KeyFormat
    keys: Mapping[str, str]

    def shapes(self) -> dict[str, Shape]:
        shapes = {key: self.part.shapes[name] for key, name in self.keys.items()}
        if self.format == "flax":
            return {key: names.to_torch_shape(shape) for key, shape in shapes.items()}
        return shapes

    def read(self) -> Params:
        tensors = self.part.read(list(self.keys.values()))
        params: Params = {}
        for key, name in self.keys.items():
            tensor = tensors[name] if self.format == "flax" else names.to_flax(tensors[name])
            *path, leaf = names.flax_path(key)
            branch = params
            for word in path:
                branch = branch.setdefault(word, {})
            branch[leaf] = tensor
        return params


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


def _with_scalars(
    config: AutoencoderTinyConfig, scalars: Mapping[str, float], variant: str
) -> AutoencoderTinyConfig:
    """Return config with ComfyUI's scalars, or else with the constants of a variant."""
    scalar = scalars.get("vae_scale", 1.0), scalars.get("vae_shift", 0.0)
    scale = config.raw_latent_scale
    if scalar == (1.0, 0.0):  # ComfyUI's defaults
        return config.with_variant(variant) if scale is None else config
    if scale is None:
        try:
            return config.replace(raw_latent_scale=scalar[0], raw_latent_shift=scalar[1])
        except ValueError as error:
            raise CheckpointError(f"vae_scale and vae_shift: {error}") from error
    raw = scale, config.raw_latent_shift or 0.0
    if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(raw, scalar, strict=True)):
        raise CheckpointError(
            f"vae_scale and vae_shift are {scalar[0]:g} and {scalar[1]:g}, but the config inside "
            f"says {raw[0]:g} and {raw[1]:g}"
        )
    return config


def _read_scalars(part: Part, extra: Sequence[str]) -> dict[str, float]:
    for name in extra:
        if part.shapes[name] not in ((), (1,)):
            raise CheckpointError(f"{name} must be one number, got shape {part.shapes[name]}")
    return {name: float(t.reshape(())) for name, t in part.read(list(extra)).items()}


def _check_finite(params: Params) -> None:
    def walk(tree: Any, path: str) -> list[str]:
        if isinstance(tree, dict):
            return [p for k, v in tree.items() for p in walk(v, f"{path}.{k}")]
        return [] if np.isfinite(tree.astype(np.float32)).all() else [path[1:]]

    if bad := walk(params, ""):
        raise CheckpointError(f"tensors with NaN or infinity: {', '.join(bad)}")

"""Strict loading of whole checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..layers import Half
from . import files, names, sources
from .names import Scheme, Shape
from .recognition import difference, recognise

Params = dict[str, Any]


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        params: {"encoder": ..., "decoder": ...}, numpy arrays in the stored dtype; one half may
            be absent.
        config: Its architecture and labels.
        scheme: The key scheme that it was stored in.
    """

    params: Params
    config: AutoencoderTinyConfig
    scheme: Scheme


class Part(NamedTuple):
    """Tensors that are read only after their names and shapes were found right."""

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

    The architecture is read from names and shapes, never from a file's name; that only tells taesd
    from taesdxl, and taesd3 from taef1, which have equal shapes. Names may follow the original,
    diffusers', ComfyUI's or our Flax scheme.

    Args:
        source: A safetensors file; `PATH` for `PATH_encoder.safetensors` and
            `PATH_decoder.safetensors`, of which one may be absent; a folder; a hub id
            "owner/name"; or a variant's name such as "taesd". What is on disk comes first.
        subfolder: Folder inside the folder or hub repository.
        revision: Branch, tag or commit of a hub repository.
        cache_dir: Where hub files are kept.
        local_files_only: Use only hub files that are already in the cache.
        token: Hub access token.

    Raises:
        CheckpointNotFoundError: There is nothing under that name.
        CheckpointError: What is there is not a model of this family; lists every tensor that is
            missing, unexpected or mis-shaped.
    """
    found = sources.find_files(
        source,
        subfolder=subfolder,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )
    parts, fields = [], {}
    for path in found.weights:
        header = files.read_header(path)
        parts.append(Part(str(path), header.shapes, lambda n, p=path: files.read_tensors(p, n)))
        if "config" in header.metadata:
            fields = _parse(header.metadata["config"], path)
    if found.config:
        fields = files.read_json(found.config)
    return assemble(parts, fields=fields, label=found.label, origin=os.fspath(source))


def assemble(
    parts: Sequence[Part], *, fields: Mapping[str, Any], label: str, origin: str
) -> Checkpoint:
    """Build a checkpoint from tensors by name.

    Args:
        parts: The tensors of one file each.
        fields: Content of a config.json, or {}.
        label: A variant's name, or "".
        origin: Where the tensors come from, for messages.

    Raises:
        CheckpointError: As `load`.
    """
    shapes: dict[Half, dict[str, Shape]] = {}
    where: dict[Half, tuple[Part, dict[str, str]]] = {}
    scalars: dict[str, float] = {}
    scheme: Scheme = "original"
    try:
        for part in parts:
            scheme, halves, extra = names.split(part.shapes)
            for half, keys in halves.items():
                if half in shapes:
                    raise CheckpointError(f"two {half}s: {where[half][0].origin}, {part.origin}")
                to_shape = names.to_torch_shape if scheme == "flax" else tuple
                shapes[half] = {k: to_shape(part.shapes[n]) for k, n in keys.items()}
                where[half] = part, keys
            scalars |= _read_scalars(part, extra)
        config = _with_fields(recognise(shapes), fields, shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    params: Params = {}
    for half, (part, keys) in where.items():
        tensors = part.read(list(keys.values()))
        params[half] = {}
        for key, name in keys.items():
            tensor = tensors[name] if scheme == "flax" else names.to_flax(tensors[name])
            _set(params[half], names.flax_path(key, tensor.ndim), tensor)
    _check_finite(params, origin)
    labels: dict[str, Any] = {"name_or_path": origin}
    if scalars and not fields:
        labels["raw_latent_scale"] = scalars.get("vae_scale", 1.0)
        labels["raw_latent_shift"] = scalars.get("vae_shift", 0.0)
    return Checkpoint(params, _labelled(config, label).replace(**labels), scheme)


def missing_file(source: str, half: Half) -> str:
    """Say which file would bring the half that `source` lacks."""
    other = "decoder" if half == "encoder" else "encoder"
    for suffix in (".safetensors", ".pth"):
        if source.endswith(f"_{other}{suffix}"):
            stem = source.removesuffix(f"_{other}{suffix}")
            return f"load {stem!r}, which needs {stem}_{half}{suffix} beside that file"
        if source and Path(f"{source}_{other}{suffix}").is_file():
            return f"add the missing file {source}_{half}{suffix}"
    return f"load a checkpoint with {half} tensors"


def _with_fields(
    config: AutoencoderTinyConfig, fields: Mapping[str, Any], shapes: Mapping[Half, Any]
) -> AutoencoderTinyConfig:
    if not fields:
        return config
    try:
        stated = AutoencoderTinyConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config: {error}") from error
    if lines := difference(shapes, stated):
        raise CheckpointError("the config does not describe the tensors:\n" + "\n".join(lines))
    return _labelled(stated, sources.label_of(str(fields.get("_name_or_path", ""))))


def _labelled(config: AutoencoderTinyConfig, label: str) -> AutoencoderTinyConfig:
    return config if config.raw_latent_scale is not None else config.labelled(label)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its config is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: its config must be a JSON object")
    return fields


def _read_scalars(part: Part, extra: Sequence[str]) -> dict[str, float]:
    for name in extra:
        if part.shapes[name] not in ((), (1,)):
            raise CheckpointError(f"{name} must be one number, got shape {part.shapes[name]}")
    return {name: float(t.reshape(())) for name, t in part.read(list(extra)).items()}


def _set(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for word in path[:-1]:
        tree = tree.setdefault(word, {})
    tree[path[-1]] = value


def _check_finite(params: Params, origin: str) -> None:
    def walk(tree: Any, path: str) -> list[str]:
        if isinstance(tree, dict):
            return [p for k, v in tree.items() for p in walk(v, f"{path}.{k}")]
        return [] if np.isfinite(tree.astype(np.float32)).all() else [path[1:]]

    if bad := walk(params, ""):
        raise CheckpointError(f"{origin}: tensors with NaN or infinity: {', '.join(bad)}")

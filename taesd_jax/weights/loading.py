"""Strict loading of whole checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..model.layers import Component
from . import files, names, sources
from .names import Scheme, Shape
from .recognition import difference, recognise

Params = dict[str, Any]


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        params: {"encoder": ..., "decoder": ...}, numpy arrays in the stored dtype; either
            component may be absent.
        config: Its architecture and labels.
        scheme: The key scheme that it was stored in; two with a slash for a mixed pair.
    """

    params: Params
    config: AutoencoderTinyConfig
    scheme: str


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
    parts: list[Part] = []
    headers: dict[Path, files.Header] = {}
    contents: dict[Path, dict[str, np.ndarray]] = {}
    fields: dict[str, Any] = {}
    for path in found.weights:
        header = headers[path] = files.read_header(path)
        parts.append(_part(path, header, contents.setdefault(path, {})))
        if text := header.metadata.get("config"):
            stated = files.parse_json(text, f"{path}: its config")
            if fields and stated != fields:
                raise CheckpointError(
                    f"encoder and decoder belong to different models: the configs inside "
                    f"{found.weights[0]} and {path} differ"
                )
            fields = stated
    if found.config:
        fields = files.read_json(found.config)
    loaded = assemble(parts, fields=fields, label=found.label, origin=os.fspath(source))
    # Only now: the tensors of what is no model may be larger than memory.
    for path, header in headers.items():
        files.check_digest(path, header, contents[path])
    return loaded


def _part(path: Path, header: files.Header, content: dict[str, np.ndarray]) -> Part:
    """Return the tensors of a file; what is read of them is kept in `content`."""

    def read(names: Sequence[str]) -> Mapping[str, np.ndarray]:
        found = files.read_tensors(path, names)
        content.update(found)
        return found

    return Part(str(path), header.shapes, read)


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
    stored: dict[Component, _Stored] = {}
    scalars: dict[str, float] = {}
    try:
        for part in parts:
            scheme, components, extra = names.split(part.shapes)
            for component, keys in components.items():
                if component in stored:
                    origins = f"{stored[component].part.origin}, {part.origin}"
                    raise CheckpointError(f"two {component}s: {origins}")
                stored[component] = _Stored(part, scheme, keys)
            scalars |= _read_scalars(part, extra)
        shapes: dict[Component, dict[str, Shape]] = {
            component: tensors.shapes() for component, tensors in stored.items()
        }
        config = _with_labels(_with_fields(recognise(shapes), fields, shapes), scalars, label)
        params = {component: tensors.read() for component, tensors in stored.items()}
        _check_finite(params)
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    schemes = {tensors.scheme for tensors in stored.values()}
    return Checkpoint(params, config.replace(name_or_path=origin), "/".join(sorted(schemes)))


class _Stored(NamedTuple):
    """One component in the names of its file: published key -> name."""

    part: Part
    scheme: Scheme
    keys: Mapping[str, str]

    def shapes(self) -> dict[str, Shape]:
        shapes = {key: self.part.shapes[name] for key, name in self.keys.items()}
        if self.scheme == "flax":
            return {key: names.to_torch_shape(shape) for key, shape in shapes.items()}
        return shapes

    def read(self) -> Params:
        tensors = self.part.read(list(self.keys.values()))
        params: Params = {}
        for key, name in self.keys.items():
            tensor = tensors[name] if self.scheme == "flax" else names.to_flax(tensors[name])
            *path, leaf = names.flax_path(key)
            branch = params
            for word in path:
                branch = branch.setdefault(word, {})
            branch[leaf] = tensor
        return params


def missing_file(source: str, component: Component) -> str:
    """Say which file would bring the component that `source` lacks."""
    other = "decoder" if component == "encoder" else "encoder"
    for suffix in (".safetensors", ".pth"):
        if source.endswith(f"_{other}{suffix}"):
            stem = source.removesuffix(f"_{other}{suffix}")
            return f"load {stem!r}, which needs {stem}_{component}{suffix} beside that file"
        if source and Path(f"{source}_{other}{suffix}").is_file():
            return f"add the missing file {source}_{component}{suffix}"
    return f"load a checkpoint with {component} tensors"


def _with_fields(
    config: AutoencoderTinyConfig, fields: Mapping[str, Any], shapes: Mapping[Component, Any]
) -> AutoencoderTinyConfig:
    if not fields:
        return config
    try:
        stated = AutoencoderTinyConfig.from_dict(fields)
    except (ValueError, TypeError, RecursionError) as error:  # deep nesting has no text
        raise CheckpointError(f"config: {error}") from error
    if lines := difference(shapes, stated):
        raise CheckpointError("the config does not describe the tensors:\n" + "\n".join(lines))
    name = sources.label_of(str(fields.get("_name_or_path", "")))
    return stated if stated.raw_latent_scale is not None else stated.labelled(name)


def _with_labels(
    config: AutoencoderTinyConfig, scalars: Mapping[str, float], label: str
) -> AutoencoderTinyConfig:
    scale, shift = scalars.get("vae_scale", 1.0), scalars.get("vae_shift", 0.0)
    if (scale, shift) == (1.0, 0.0):  # what ComfyUI has where nobody said anything
        return config if config.raw_latent_scale is not None else config.labelled(label)
    if config.raw_latent_scale is None:
        try:
            return config.replace(raw_latent_scale=scale, raw_latent_shift=shift)
        except ValueError as error:
            raise CheckpointError(f"vae_scale and vae_shift: {error}") from error
    stated = config.raw_latent_scale, config.raw_latent_shift or 0.0
    if not all(
        math.isclose(a, b, rel_tol=1e-6) for a, b in zip(stated, (scale, shift), strict=True)
    ):
        raise CheckpointError(
            f"vae_scale and vae_shift are {scale:g} and {shift:g}, but the config inside says "
            f"{stated[0]:g} and {stated[1]:g}"
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

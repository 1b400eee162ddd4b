"""Loads checkpoints from safetensors files and from the hub."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, warn
from . import files, sources
from .assembly import Checkpoint, Part, assemble
from .names import Shape


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
        source: A variant's name such as "taesd", or "small"; a safetensors file, or the index of
            its shards; `PATH` for a pair `PATH_encoder.safetensors` and
            `PATH_decoder.safetensors`, or one of them; a folder; or a hub id "owner/name". A path
            that is spelt like a name or an existing hub id is "./taesd", or a `Path`.
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
    if source_files.config and not fields:
        fields = files.read_json(source_files.config)
    parts = [_part(path, header) for path, header in headers.items()]
    if source_files.are_shards:
        parts = [_merge(parts)]
    _warn_of_exchanged(headers)
    return assemble(parts, fields=fields, variant=source_files.variant, origin=os.fspath(source))


def _part(path: Path, header: files.Header) -> Part:
    refused = {name: kind for name, kind in header.dtypes.items() if kind not in files.DTYPES}
    read = functools.partial(files.read_tensors, path, header)
    return Part(str(path), header.shapes, refused, read)


def _merge(shards: Sequence[Part]) -> Part:
    shapes: dict[str, Shape] = {}
    refused: dict[str, str] = {}
    for shard in shards:
        if twice := shapes.keys() & shard.shapes.keys():
            raise CheckpointError(
                f"{shard.origin}: another shard has {', '.join(sorted(twice))} too"
            )
        shapes |= shard.shapes
        refused |= shard.refused

    def read(names: Collection[str]) -> Mapping[str, np.ndarray]:
        tensors: dict[str, np.ndarray] = {}
        for shard in shards:
            tensors |= shard.read([name for name in names if name in shard.shapes])
        return tensors

    return Part(f"{shards[0].origin} and other shards", shapes, refused, read)


def _warn_of_exchanged(headers: Mapping[Path, files.Header]) -> None:
    """Warn of an encoder and a decoder that were saved with others."""
    models = {header.metadata.get(files.MODEL) for header in headers.values()} - {None}
    if len(models) > 1:
        warn(
            f"{' and '.join(map(str, headers))} were not saved together: they may be of two models"
        )


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

"""Files of thumbnails: the heads of many decoders, looked up by the values of the decoder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..errors import CheckpointError
from ..io.files import locked, resolve_target, write_files
from ..model.layers import Params
from . import sources
from .files import parse_json, read_header, read_tensors, to_bytes
from .names import Shape

BUNDLED_FILE = sources.BUNDLED / "thumbnails.safetensors"
# Bytes in float32: the heads of hundreds of decoders, 0.3 MB each.
MAX_BYTES = 256 * 2**20
# Relative tolerance on fingerprints: rounding to bfloat16 changes each value by at most 2^-9 and
# the projection by about 2^-10 of the norm.
_TOLERANCE = 2**-7


class Entry(NamedTuple):
    """The thumbnail heads of one decoder.

    Attributes:
        thumbnails: For `params["thumbnails"]`.
        fingerprint: `fingerprint_of` the decoder.
        notes: How the heads were fitted, and their PSNR.
    """

    thumbnails: Params
    fingerprint: np.ndarray
    notes: dict[str, Any]


def add_thumbnails(params: Params, path: str | os.PathLike[str] | None = None) -> Params:
    """Return params with the thumbnail heads fitted to their decoder, in place of any others.

    A decoder is recognised by its values, in any dtype; a fine-tuned one is another decoder.

    Args:
        params: {"decoder": ...}, with or without an encoder.
        path: File written by `save_thumbnails` or `taesd-jax fit-thumbnails`; by default the
            bundled one, for taesd, taesdxl, taesd3, taef1 and taef2.

    Raises:
        CheckpointError: `path` is not a file of thumbnails, or has none for this decoder.
        CheckpointNotFoundError: There is no such file.
    """
    params = {name: part for name, part in params.items() if name != "thumbnails"}
    entries = read_thumbnails(BUNDLED_FILE if path is None else path)
    if "decoder" in params:
        fingerprint = fingerprint_of(params["decoder"])
        for entry in entries.values():
            if _agree(entry.fingerprint, fingerprint):
                return params | {"thumbnails": entry.thumbnails}
    if path is not None:
        names = ", ".join(list(entries)[:9]) + (", ..." if len(entries) > 9 else "")
        raise CheckpointError(f"{path} has thumbnails for {names}, not for this decoder")
    return params


def save_thumbnails(
    path: str | os.PathLike[str],
    params: Params,
    *,
    name: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write the thumbnail heads of params to a file, next to those of other decoders.

    Args:
        path: The file; an existing one is replaced atomically.
        params: {"decoder": ..., "thumbnails": ...}, the latter from `fit_thumbnails`.
        name: Name of the entry; an entry of that name for another decoder is not replaced.
        notes: JSON values to keep with the entry.

    Raises:
        CheckpointError: It is not a file of thumbnails, or has that name for another decoder.
        ValueError: The name has a dot, or params have no thumbnails.
    """
    path = resolve_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The second of two concurrent writers adds to the first one's file.
    with locked(path.parent):
        entries = check_entry(path, params, name)
        if not params.get("thumbnails"):
            raise ValueError("params have no thumbnails; fit_thumbnails makes them")
        fingerprint = fingerprint_of(params["decoder"])
        entries[name] = Entry(params["thumbnails"], fingerprint, dict(notes or {}))
        tensors, metadata = {}, {}
        for model, entry in entries.items():
            for scale, head in entry.thumbnails.items():
                for part, value in head.items():
                    tensors[f"{model}.{scale}.{part}"] = np.asarray(value, np.float32)
            tensors[f"{model}.fingerprint"] = entry.fingerprint
            metadata[model] = json.dumps(entry.notes)
        write_files({path: to_bytes(tensors, metadata)})


def check_entry(path: str | os.PathLike[str], params: Params, name: str) -> dict[str, Entry]:
    """Return the entries of a file, {} if there is none; raises as `save_thumbnails` would."""
    if not name or "." in name:
        raise ValueError(f"the name of thumbnails must not have a dot, got {name!r}")
    entries = read_thumbnails(path) if Path(path).exists() else {}
    fingerprint = fingerprint_of(params["decoder"])
    if name in entries and not _agree(entries[name].fingerprint, fingerprint):
        raise CheckpointError(
            f"{path} has thumbnails named {name} for another decoder; choose another name"
        )
    return entries


def read_thumbnails(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """Read a file of thumbnails: name of a model -> its entry.

    Raises:
        CheckpointError: It is not a file of thumbnails.
        CheckpointNotFoundError: There is no such file.
    """
    path = Path(path)
    header = read_header(path)
    names: dict[str, dict[str, dict[str, str]]] = {}  # model -> scale -> part -> tensor
    for tensor in sorted(header.shapes):
        model, _, key = tensor.partition(".")
        scale, _, part = key.partition(".")
        names.setdefault(model, {}).setdefault(scale, {})[part] = tensor
    if not all(_is_entry(entry, header.shapes) for entry in names.values()):
        raise CheckpointError(f"{path}: not a file that `taesd-jax fit-thumbnails` wrote")
    if (size := 4 * sum(map(math.prod, header.shapes.values()))) > MAX_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")
    tensors = read_tensors(path, header, header.shapes)
    if bad := [name for name, t in tensors.items() if not np.isfinite(t.astype("f4")).all()]:
        raise CheckpointError(f"{path}: thumbnails with NaN or infinity: {', '.join(bad[:5])}")
    entries = {}
    for model, scales in names.items():
        fingerprint = tensors[scales.pop("fingerprint")[""]]
        heads = {s: {part: tensors[t] for part, t in head.items()} for s, head in scales.items()}
        notes = parse_json(header.metadata.get(model, "{}"), f"{path}, {model}")
        entries[model] = Entry(heads, fingerprint, notes)
    return entries


def fingerprint_of(decoder_params: Params) -> np.ndarray:
    """Return (tensors, 2): the norm of each tensor and its projection on a fixed wave."""
    rows = []
    for leaf in jax.tree.leaves(decoder_params):
        values = np.asarray(leaf).astype(np.float64).ravel()
        # The projection on a wave of rising frequency differs between tensors of equal norm, such
        # as mirrored, permuted or noisy ones.
        wave = np.sqrt(2) * np.cos(0.618 * np.arange(values.size) ** 2)
        rows.append((np.linalg.norm(values), values @ wave))
    return np.asarray(rows, np.float32)


def _is_entry(entry: Mapping[str, Mapping[str, str]], shapes: Mapping[str, Shape]) -> bool:
    """Return whether an entry has a fingerprint and heads, each a 3x3 kernel and a bias."""
    heads = {scale: {k: shapes[t] for k, t in parts.items()} for scale, parts in entry.items()}
    fingerprint = heads.pop("fingerprint", {}).get("", ())
    if len(fingerprint) != 2 or fingerprint[1] != 2 or not heads:
        return False
    return all(
        head.keys() == {"kernel", "bias"}
        and len(head["kernel"]) == 4
        and head["kernel"][:2] == (3, 3)
        and head["bias"] == head["kernel"][3:]
        for head in heads.values()
    )


def _agree(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    return bool((np.abs(a - b) <= _TOLERANCE * a[:, :1] + 1e-9).all())

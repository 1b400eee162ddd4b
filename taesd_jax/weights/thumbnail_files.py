"""Files of heads for small pictures, each recognised by the decoder that it was fitted to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError
from ..io.files import locked, resolve_target, write_files
from . import sources
from .files import check_digest, parse_json, read_header, read_tensors, to_bytes
from .names import Shape

Params = dict[str, Any]

SHIPPED = sources.BUNDLED / "heads.safetensors"
# In float32: a bound that hundreds of models do not reach, one takes about 0.3 MB.
MAX_HEADS = 256 * 2**20
# Of a norm. Stored in bfloat16, a value changes by 2^-9 of itself at most, and the product of all
# with a wave by about 2^-10 of their norm.
_TOLERANCE = 2**-7


class Entry(NamedTuple):
    """The heads of one decoder.

    Attributes:
        heads: For `params["heads"]`.
        fingerprint: `fingerprint_of` the decoder.
        notes: How they were made, and how good they are.
    """

    heads: Params
    fingerprint: np.ndarray
    notes: dict[str, Any]


def add_heads(params: Params, path: str | os.PathLike[str] | None = None) -> Params:
    """Return params with the heads that were fitted to their decoder, and without any others.

    A decoder is known by its values, in whatever dtype they are stored; one that was fine-tuned is
    another one.

    Args:
        params: {"decoder": ...}, and an encoder or not.
        path: File that `save_heads` or `taesd-jax fit-heads` wrote; by default the one in this
            package, which has heads for taesd, taesdxl, taesd3, taef1 and taef2.

    Raises:
        CheckpointError: The file is not one of heads, or a file that was named has none for this
            decoder.
        CheckpointNotFoundError: There is no such file.
    """
    params = {name: part for name, part in params.items() if name != "heads"}
    entries = read_heads(SHIPPED if path is None else path)
    if "decoder" in params:
        fingerprint = fingerprint_of(params["decoder"])
        for entry in entries.values():
            if _agree(entry.fingerprint, fingerprint):
                return params | {"heads": entry.heads}
    if path is not None:
        known = ", ".join(list(entries)[:9]) + (", ..." if len(entries) > 9 else "")
        raise CheckpointError(f"{path} has heads for {known}, not for this decoder")
    return params


def save_heads(
    path: str | os.PathLike[str],
    params: Params,
    *,
    name: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write the heads of params into a file for `add_heads`, beside those of other decoders.

    Args:
        path: The file; an existing one stays whole until the new one is on disk.
        params: {"decoder": ..., "heads": ...}, as `fit_heads` gives them.
        name: Of the entry; an entry of that name for another decoder is not replaced.
        notes: What is worth knowing, as JSON.

    Raises:
        CheckpointError: The file is not one of heads, or has that name for another decoder.
        ValueError: The name has a dot, or there are no heads.
    """
    path = resolve_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two that write at once: the second adds to what the first has written.
    with locked(path.parent):
        entries = check_entry(path, params, name)
        if not params.get("heads"):
            raise ValueError("params have no heads; fit_heads makes them")
        entries[name] = Entry(params["heads"], fingerprint_of(params["decoder"]), dict(notes or {}))
        tensors, metadata = {}, {}
        for own, entry in entries.items():
            for scale, head in entry.heads.items():
                for part, value in head.items():
                    tensors[f"{own}.{scale}.{part}"] = np.asarray(value, np.float32)
            tensors[f"{own}.fingerprint"] = entry.fingerprint
            metadata[own] = json.dumps(entry.notes)
        write_files({path: to_bytes(tensors, metadata)})


def check_entry(path: str | os.PathLike[str], params: Params, name: str) -> dict[str, Entry]:
    """Return the entries of a file, if there is one; raise as `save_heads` would."""
    if not name or "." in name:
        raise ValueError(f"the name of heads must not have a dot, got {name!r}")
    entries = read_heads(path) if Path(path).exists() else {}
    fingerprint = fingerprint_of(params["decoder"])
    if name in entries and not _agree(entries[name].fingerprint, fingerprint):
        raise CheckpointError(
            f"{path} has heads named {name} for another decoder; give these another name"
        )
    return entries


def read_heads(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """Read a file of heads: name of a model -> its entry.

    Raises:
        CheckpointError: It is not a file of heads.
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
        raise CheckpointError(f"{path}: not a file that `taesd-jax fit-heads` wrote")
    if (size := 4 * sum(map(math.prod, header.shapes.values()))) > MAX_HEADS:
        raise CheckpointError(f"{path}: expected heads of at most {MAX_HEADS} bytes, got {size}")
    tensors = read_tensors(path, list(header.shapes))
    check_digest(path, header, tensors)
    if bad := [name for name, t in tensors.items() if not np.isfinite(t.astype("f4")).all()]:
        raise CheckpointError(f"{path}: heads with NaN or infinity: {', '.join(bad[:5])}")
    entries = {}
    for model, scales in names.items():
        fingerprint = tensors[scales.pop("fingerprint")[""]]
        heads = {s: {part: tensors[t] for part, t in head.items()} for s, head in scales.items()}
        notes = parse_json(header.metadata.get(model, "{}"), f"{path}, {model}")
        entries[model] = Entry(heads, fingerprint, notes)
    return entries


def fingerprint_of(decoder_params: Params) -> np.ndarray:
    """Return the norm of each tensor and its product with one fixed wave, in order of name."""
    return np.asarray(list(_fingerprint(decoder_params)), np.float32)  # (tensors, 2)


def _is_entry(entry: Mapping[str, Mapping[str, str]], shapes: Mapping[str, Shape]) -> bool:
    """Return whether there are a fingerprint and heads, each a 3x3 kernel and a bias."""
    found = {scale: {k: shapes[t] for k, t in parts.items()} for scale, parts in entry.items()}
    fingerprint = found.pop("fingerprint", {}).get("", ())
    if len(fingerprint) != 2 or fingerprint[1] != 2 or not found:
        return False
    return all(
        head.keys() == {"kernel", "bias"}
        and len(head["kernel"]) == 4
        and head["kernel"][:2] == (3, 3)
        and head["bias"] == head["kernel"][3:]
        for head in found.values()
    )


def _fingerprint(tree: Any) -> Iterator[tuple[float, float]]:
    if isinstance(tree, Mapping):
        for name in sorted(tree):
            yield from _fingerprint(tree[name])
        return
    values = np.asarray(tree).astype(np.float64).ravel()
    # Its frequency rises, so that it looks like noise: the product with it tells apart tensors of
    # equal norm, such as mirrored, permuted or noisy ones.
    wave = np.sqrt(2) * np.cos(0.618 * np.arange(values.size) ** 2)
    yield float(np.linalg.norm(values)), float(values @ wave)


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    return bool((np.abs(one - other) <= _TOLERANCE * one[:, :1] + 1e-9).all())

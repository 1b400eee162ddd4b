"""Safetensors and JSON files: their names, and strict reading, headers before any data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..errors import CheckpointError, CheckpointNotFoundError
from .magic import SAFETENSORS, describe_file
from .names import Shape

DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"
# Dtypes that PyTorch and JAX share, by their names in safetensors.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Bytes; the headers of the published files have 6 kB.
MAX_HEADER = 4 * 2**20
# Bytes; a config.json has 1 kB.
MAX_JSON = 2**20
# Key of the digest in the metadata of files that this package writes.
DIGEST = "taesd_jax.sha256"
# Key of the digest of both components in the metadata of the files of a pair.
MODEL = "taesd_jax.model"


class Header(NamedTuple):
    """Names, shapes, dtypes and metadata of a safetensors file.

    Attributes:
        shapes: Name -> shape of each tensor.
        dtypes: Name -> dtype, in the words of safetensors.
        metadata: Text by key.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, and no tensor.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It is not a complete safetensors file.
    """
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
        return Header(
            {name: tuple(tensor.get_shape()) for name, tensor in slices.items()},
            {name: tensor.get_dtype() for name, tensor in slices.items()},
            file.metadata() or {},
        )


def read_tensors(path: Path, header: Header, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read tensors of a safetensors file; call it once their shapes are known to be right.

    Raises:
        CheckpointError: As `read_header`, or the content does not match the digest in the file,
            which is checked when all tensors are read. Other programs' files have none.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in names}
    if len(tensors) < len(header.shapes):
        return tensors
    if expected := header.metadata.get(DIGEST):
        metadata = {key: text for key, text in header.metadata.items() if key != DIGEST}
        if _digest(tensors, metadata) != expected:
            raise CheckpointError(
                f"{path}: the content does not match its digest ({DIGEST}): the file is damaged, "
                f"or another program changed it and kept the old digest"
            )
    return tensors


def to_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Serialise tensors as a safetensors file with a digest, which `read_tensors` checks.

    Equal content gives equal bytes.
    """
    from safetensors.numpy import save

    metadata = {**metadata, DIGEST: _digest(tensors, metadata)}
    raw = save(dict(tensors), metadata=metadata)
    # safetensors orders the metadata differently in each run.
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end]) | {"__metadata__": dict(sorted(metadata.items()))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[end:]


def digest_tree(tree: Any, text: str = "") -> str:
    """Return the SHA-256 of a text and of the arrays in a pytree, in hexadecimal."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return _sha256(((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves), text)


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        CheckpointError: It is not one, or it is larger than `MAX_JSON`.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON:
            raise CheckpointError(f"{path}: expected at most {MAX_JSON} bytes, got {size}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return parse_json(text, str(path))


def parse_json(text: str, origin: str) -> dict:
    """Parse a JSON object.

    Raises:
        CheckpointError: It is not one; the message names `origin`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{origin}: expected a JSON object: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{origin}: expected a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def _open(path: Path) -> Iterator:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise CheckpointNotFoundError(f"no such file: {path}")
    if path.is_dir():
        raise CheckpointError(f"{path}: expected a file, got a folder")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; download it again")
    try:
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
        if path.stat().st_size >= 8 + header_size > 8 + MAX_HEADER:
            kind = describe_file(path, expected=SAFETENSORS) or f"one of {header_size} bytes"
            raise CheckpointError(
                f"{path}: expected a safetensors file with a header of at most {MAX_HEADER} bytes, "
                f"got {kind}"
            )
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        if kind := describe_file(path, expected=SAFETENSORS):
            raise CheckpointError(f"{path}: expected a safetensors file, got {kind}") from error
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({error}); it may be truncated, download it "
            f"again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    return _sha256(sorted(tensors.items()), json.dumps(sorted(metadata.items())))


def _sha256(arrays: Iterable[tuple[str, np.ndarray]], text: str) -> str:
    sha256 = hashlib.sha256(text.encode())
    for name, array in arrays:
        array = np.ascontiguousarray(array)
        sha256.update(f"{name} {array.dtype.name} {array.shape} ".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()

"""Reading safetensors and JSON files, headers before any data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointError, CheckpointNotFoundError
from .names import Shape

# What PyTorch and JAX both hold without loss, by the names that safetensors uses.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Bounds in bytes that no model of this family comes near: the published headers have 6 kB.
MAX_HEADER = 4 * 2**20
MAX_JSON = 2**20
# In the metadata of the files that we write.
DIGEST = "taesd_jax.sha256"


class Header(NamedTuple):
    """What a safetensors file says of itself.

    Attributes:
        shapes: Name -> shape of each tensor.
        metadata: Free text by name.
    """

    shapes: dict[str, Shape]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read names, shapes and metadata of a safetensors file, and no tensor.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It is not a whole safetensors file, or has a dtype outside `DTYPES`.
    """
    with _open(path) as file:
        shapes, refused = {}, []
        for name in file.keys():  # noqa: SIM118  not a dict
            part = file.get_slice(name)
            if part.get_dtype() not in DTYPES:
                refused.append(f"{name} is {part.get_dtype()}")
            shapes[name] = tuple(part.get_shape())
        if refused:
            raise CheckpointError(
                f"{path}: tensors must be one of {', '.join(DTYPES)}; {'; '.join(refused)}"
            )
        return Header(shapes, file.metadata() or {})


def read_tensors(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the named tensors of a safetensors file.

    Raises:
        CheckpointError: As `read_header`.
    """
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in names}


def to_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with a digest of what it holds, for `check_digest`.

    Equal content gives equal bytes.
    """
    from safetensors.numpy import save

    metadata = {**metadata, DIGEST: _digest(tensors, metadata)}
    raw = save(dict(tensors), metadata=metadata)
    # safetensors writes the metadata in an order that changes from run to run.
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end]) | {"__metadata__": dict(sorted(metadata.items()))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[end:]


def check_digest(path: Path, header: Header, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise CheckpointError where a file no longer holds what `to_bytes` put into it.

    Files of others have no digest, and pass.

    Args:
        path: The file.
        header: Its header.
        tensors: All that was read of it.
    """
    if stated := header.metadata.get(DIGEST):
        metadata = {name: text for name, text in header.metadata.items() if name != DIGEST}
        if _digest(tensors, metadata) != stated:
            raise CheckpointError(
                f"{path}: what it holds is not what was written (its {DIGEST} differs): it is "
                f"damaged, or another program changed it and left that digest in"
            )


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
        CheckpointError: It is not one; `origin` says where it stood.
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
            header = int.from_bytes(file.read(8), "little")
        if path.stat().st_size >= 8 + header > 8 + MAX_HEADER:
            raise CheckpointError(
                f"{path}: not of a model of this family: expected a header of at most "
                f"{MAX_HEADER} bytes, got {header}"
            )
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); it may be truncated, download it "
            f"again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        found.update(f"{name} {array.dtype.name} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()

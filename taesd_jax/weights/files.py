"""Reading safetensors and JSON files, headers before any data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointError, CheckpointNotFoundError
from .names import Shape

# What PyTorch and JAX both hold without loss, by the names that safetensors uses.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


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


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        CheckpointError: It is not one.
    """
    try:
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
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); it may be truncated, download it "
            f"again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error

"""Writes that leave the old file whole until the new one is on disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write whole files together: all are on disk before the first takes its place.

    Missing folders are made.

    Raises:
        OSError: A file cannot be written; then no destination has changed.
    """
    written: list[tuple[Path, Path]] = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            # os.open, not tempfile: the new file gets the mode that the umask asks for.
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            written.append((beside, path))
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folders := [path for path in files if path.is_dir()]:
            raise IsADirectoryError(f"expected a file, got a folder: {folders[0]}")
        while written:
            os.replace(*written[0])
            written.pop(0)
    finally:
        for beside, _ in written:
            beside.unlink()

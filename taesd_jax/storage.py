"""Writes that leave the old file whole until the new one is on disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write whole files together: all are on disk before the first takes its place.

    Missing folders are made; an existing file keeps its mode.

    Raises:
        OSError: A file cannot be written; then no destination has changed.
    """
    written: list[tuple[Path, Path]] = []
    try:
        for path, content in files.items():
            # A link stays a link: what it points to is replaced.
            path = path.resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(f"expected a file, got a folder: {path}")
            beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
            mode = path.stat().st_mode & 0o777 if path.exists() else None
            with _naming(path):
                # os.open, not tempfile: a new file gets the mode that the umask asks for.
                descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                written.append((beside, path))
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if mode is not None:
                beside.chmod(mode)
        while written:
            os.replace(*written[0])
            written.pop(0)
    finally:
        for beside, _ in written:
            beside.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError name the file that was asked for: a full disk's names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error

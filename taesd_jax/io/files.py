"""Files: regular ones, locks, and writes that leave the old file whole until the new one is."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import PictureError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What the system has opened for this process; to replace it would change nobody's output.
_OPENED = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/")


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write whole files together: all are on disk before the first takes its place.

    Missing folders are made; an existing file keeps its mode. A link stays a link: what it points
    to is replaced.

    Raises:
        OSError: A file cannot be written, or two are one. No destination has changed then, unless
            the system refused to put a later one in its place.
    """
    places = {path: resolve_target(path) for path in files}
    if len(set(places.values())) < len(places):
        given = ", ".join(map(str, files))
        raise OSError(errno.EINVAL, f"expected different files, got links to one: {given}")
    written: list[tuple[Path, Path]] = []
    try:
        for given, content in files.items():
            path = places[given]
            path.parent.mkdir(parents=True, exist_ok=True)
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


def resolve_target(path: str | os.PathLike[str]) -> Path:
    """Return the file that a write to `path` replaces, through all links.

    Raises:
        OSError: It is a folder, a device or a pipe, or has no name.
    """
    target = Path(os.path.realpath(path))
    if not Path(path).name:
        raise OSError(errno.EINVAL, "expected the name of a file", os.fspath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected a file, got a folder", str(path))
    if (target.exists() and not target.is_file()) or str(path).startswith(_OPENED):
        raise OSError(errno.EINVAL, "expected a file, got a device or a pipe", str(path))
    return target


def check_regular(path: Path) -> None:
    """Raise PictureError for a folder, and for a pipe or device, which might never end."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise PictureError(f"{path}: expected a file, got {kind}")


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep a folder to this thread, where the system can.

    Args:
        folder: One that exists.
        wait: Until another has done with it; else that is an error.

    Raises:
        BlockingIOError: Another has it.
    """
    if not fcntl:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError name the file that was asked for: a full disk's names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error

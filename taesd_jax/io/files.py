"""Atomic writes, locks, and checks that a path is a regular file."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import MediaFileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Streams of this process: replacing the file behind one would lose its output.
_STANDARD_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/")
_SIGNATURE = "written by taesd-jax "
# Bytes at each end of a file where formats keep their metadata.
_METADATA_BYTES = 2**16


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files atomically: all are on disk before the first replaces its target.

    Missing folders are created, and an existing file keeps its mode. A link stays a link; the file
    that it points to is replaced.

    Raises:
        OSError: A file cannot be written, or two paths lead to the same file. No target has changed
            then, unless the system refused to rename a later file.
    """
    targets = {path: resolve_target(path) for path in files}
    if len(set(targets.values())) < len(targets):
        paths = ", ".join(map(str, files))
        raise OSError(errno.EINVAL, f"expected different files, got links to one: {paths}")
    written: list[tuple[Path, Path]] = []
    try:
        for requested, content in files.items():
            path = targets[requested]
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
            mode = path.stat().st_mode & 0o777 if path.exists() else None
            with naming(path):
                # Not tempfile, whose files ignore the umask.
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                written.append((temporary, path))
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if mode is not None:
                temporary.chmod(mode)
        while written:
            os.replace(*written[0])
            written.pop(0)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)


def resolve_target(path: str | os.PathLike[str]) -> Path:
    """Return the file that a write to `path` replaces, through all links.

    Raises:
        OSError: It is a folder, a device or a pipe, or has no name.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "expected a file, got a loop of links", str(path))
    if not Path(path).name:
        raise OSError(errno.EINVAL, "expected the name of a file", os.fspath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected a file, got a folder", str(path))
    if (target.exists() and not target.is_file()) or str(path).startswith(_STANDARD_STREAMS):
        raise OSError(errno.EINVAL, "expected a file, got a device or a pipe", str(path))
    return target


def signature(command: str) -> str:
    """Return the text by which `command_of` recognises the files of a subcommand."""
    return f"{_SIGNATURE}{command}."  # the dot ends it: what follows in a file may be a letter


def command_of(path: Path) -> str:
    """Return the subcommand of `taesd-jax` that wrote a file, by its metadata, or "".

    The signature is looked for as bytes: no parser need be trusted with other people's files.
    """
    with reading(path), path.open("rb") as file:
        content = file.read(_METADATA_BYTES)
        file.seek(max(len(content), path.stat().st_size - _METADATA_BYTES))
        content += file.read()
    found = re.search(_SIGNATURE.encode() + rb"([a-z-]+)", content)
    return found[1].decode() if found else ""


def check_regular(path: Path) -> None:
    """Raise MediaFileError for a folder, and for a pipe or device, which might never end."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise MediaFileError(f"{path}: expected a file, got {kind}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every error of reading a file into a MediaFileError that names it."""
    try:
        check_regular(path)
        yield
    except MediaFileError:
        raise
    except FileNotFoundError as error:
        raise MediaFileError(f"{path}: no such file") from error
    except Exception as error:  # Pillow, NumPy and tifffile raise every kind on broken files
        raise MediaFileError(f"{path}: cannot be read: {error}") from error


@contextmanager
def locked(folder: Path, *, blocking: bool = True, shared: bool = False) -> Iterator[None]:
    """Lock a folder against other processes and threads, where the system can.

    Args:
        folder: An existing folder.
        blocking: Whether to wait for another lock to be released.
        shared: Whether others may hold a shared lock at the same time.

    Raises:
        BlockingIOError: It is locked, and `blocking` is false.
    """
    if not fcntl:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if blocking else kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError: the one of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error

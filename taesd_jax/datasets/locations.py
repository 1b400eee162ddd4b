"""Files of a source, local or remote: found, opened, and whether they changed."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import MediaFileError

# Suffixes of files that travel along as text with a picture of the same stem.
TEXTS = ("caption", "json", "text", "txt")
_REMOTE, _LOCAL = "://", "file://"
_GONE = "bring it back and run the command again, which goes on where it was"
# Size, and time of the last change in nanoseconds; 0 for remote files.
Stamp = tuple[int, int]


def join(root: str, name: str) -> str:
    """Return the path of a name within a root."""
    return f"{root.rstrip('/')}/{name}"


def check_root(root: str) -> None:
    """Raise MediaFileError if a local root is gone: none of its files failed for itself."""
    if _REMOTE not in root and not os.path.exists(root):
        raise MediaFileError(f"{root} is gone: {_GONE}")


def open_file(path: str) -> Any:
    """Open a file for reading, a remote one by fsspec."""
    if _REMOTE not in path:
        check_regular(path, os.stat(path))
        return open(path, "rb")
    system, path = _remote(path)
    return system.open(path, "rb")


def stamp_of(stream: Any) -> Stamp:
    """Return the stamp of an opened file."""
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError):
        return stream.size, 0
    return status.st_size, status.st_mtime_ns


def check_regular(path: str, status: os.stat_result) -> None:
    """Raise MediaFileError for a pipe or device, which might never end."""
    if not stat.S_ISREG(status.st_mode):
        raise MediaFileError(f"{os.path.basename(path)}: expected a file, got a pipe or a device")


def find_files(source: str) -> tuple[str, dict[str, Stamp | str]]:
    """Return the root of a source and its files within it, each with its stamp or why it has none.

    Raises:
        MediaFileError: There is no such file or folder, and none matches.
        OSError: A folder cannot be listed.
    """
    source = source.removeprefix(_LOCAL)
    if _REMOTE in source:
        return _find_remote(source)
    path = Path(source)
    if path.is_dir():
        root, names = os.path.abspath(source), _walk(source)
    else:
        found = [source] if path.exists() else glob.glob(source, recursive=True)
        # Of the pattern, not of what happens to match: keys stay what they are.
        root = os.path.abspath(path.parent if path.exists() else _plain_folder(source))
        found = [os.path.relpath(name, root) for name in found if not os.path.isdir(name)]
        names = _with_texts(found, lambda folder: _list_folder(root, folder))
    files = {name.replace(os.sep, "/"): _local_stamp(os.path.join(root, name)) for name in names}
    if not files:
        raise MediaFileError(f"no such file or folder, and no file matches: {source!r}")
    return root, files


def _find_remote(source: str) -> tuple[str, dict[str, Stamp | str]]:
    system, path = _remote(source)
    if system.isdir(path):
        root, names = path, system.find(path)
    else:
        found = (
            [path] if system.exists(path) else [p for p in system.glob(path) if system.isfile(p)]
        )
        root = path.rpartition("/")[0] if path in found else _plain_folder(path)
        names = _with_texts(found, lambda folder: system.ls(folder, detail=False))
    files: dict[str, Stamp | str] = {
        name[len(root) :].lstrip("/"): (system.size(name) or 0, 0) for name in names
    }
    if not files:
        raise MediaFileError(f"no such file or folder, and no file matches: {source!r}")
    return system.unstrip_protocol(root), files


def _with_texts(found: list[str], list_folder: Callable[[str], Iterable[str]]) -> set[str]:
    """Add the texts in the folders of files."""
    texts = tuple(f".{suffix}" for suffix in TEXTS)
    folders = {name.rpartition("/")[0] for name in found}
    names = (name for folder in folders for name in list_folder(folder))
    return {*found, *(name for name in names if name.endswith(texts))}


def _list_folder(root: str, folder: str) -> Iterator[str]:
    for name in os.listdir(os.path.join(root, folder)):
        yield f"{folder}/{name}" if folder else name


def _remote(path: str) -> Any:
    import fsspec

    return fsspec.core.url_to_fs(path)


def _plain_folder(pattern: str) -> str:
    """Return the folder of a pattern that comes before its first wildcard."""
    parts = pattern.split("/")
    magic = (i for i, part in enumerate(parts) if glob.has_magic(part))
    count = next(magic, len(parts) - 1)
    return "/".join(parts[:count]) or ("/" if pattern.startswith("/") else ".")


def _walk(folder: str) -> Iterator[str]:
    """Yield the files of a folder and its subfolders, of which links are followed once."""

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(parent, folder)
        for name in files:
            # Hugging Face datasets leave cached transforms beside their tables.
            cached = name.startswith("cache-") and name.endswith(".arrow")
            if not name.startswith(".") and not cached:
                yield name if inside == "." else os.path.join(inside, name)


def _local_stamp(path: str) -> Stamp | str:
    try:
        status = os.stat(path)
        check_regular(path, status)
    except OSError as error:
        return str(error.strerror)
    except MediaFileError as error:
        return str(error)
    return status.st_size, status.st_mtime_ns

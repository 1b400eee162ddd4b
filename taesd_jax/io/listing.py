"""Lists of image files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import MediaFileError, warn
from .files import command_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".gif")
# Names the folder of a trained component, whose sheets of samples are in `samples`.
RECIPE_FILE = "recipe.json"


def list_images(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List image files, each once, of files, folders with their subfolders and glob patterns.

    Folders and patterns are sorted, and leave out images that `taesd-jax` wrote, as their metadata
    says, and the sheets of samples of training runs.

    Raises:
        MediaFileError: A source does not exist or has no images.
    """
    files = []
    for each in sources:
        source = os.fspath(each)
        if not is_list(source) and not Path(source).is_file():
            raise MediaFileError(f"no such file or folder: {source!r}")
        files += find_images(source)
    return drop_repeated(files)


def is_list(source: str) -> bool:
    """Return whether a source is a folder or a glob pattern."""
    path = Path(source)
    return path.is_dir() or (glob.has_magic(source) and not path.exists())


def visible_files(folder: Path) -> list[Path]:
    """List the files of a folder and its subfolders, without hidden ones.

    Unfinished jobs of this package and macOS keep files there whose names begin with a dot.
    """

    def is_hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path))


def find_images(source: str) -> list[Path]:
    """Return the file that a source names, or the images of a folder or pattern.

    Raises:
        MediaFileError: There are none.
    """
    path = Path(source)
    if not is_list(source):
        return [path]
    if path.is_dir():
        files = [p for p in visible_files(path) if p.suffix.lower() in IMAGE_SUFFIXES]
    else:
        files = [Path(p) for p in glob.glob(source, recursive=True)]
    matches = [p for p in sorted(files) if p.is_file()]
    files = [p for p in matches if not _is_result(p)]
    if matches and not files:
        raise MediaFileError(f"taesd-jax wrote all images in {source!r}; name the files themselves")
    if not files:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise MediaFileError(f"no images in {source!r}; they end with {suffixes}")
    return files


def drop_repeated(paths: Iterable[Path]) -> list[Path]:
    """List each file once, with a warning for one that has two names."""
    files: dict[object, Path] = {}
    for path in paths:
        try:
            status = path.stat()
            key: object = (status.st_dev, status.st_ino)
        except OSError:  # there is none, or a loop of links
            key = os.path.abspath(path)
        first = files.setdefault(key, path)
        if os.path.abspath(first) != os.path.abspath(path):
            warn(f"{path} and {first} are one file; {path} is left out")
    return list(files.values())


def _is_result(path: Path) -> bool:
    is_sheet = path.parent.name == "samples" and (path.parent.parent / RECIPE_FILE).exists()
    try:
        return is_sheet or bool(command_of(path))
    except MediaFileError:
        return False  # whoever reads it says what is wrong with it

"""Lists of image files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import MediaFileError
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
    images: dict[Path, Path] = {}
    for each in sources:
        source, path = os.fspath(each), Path(each)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
            files = [p for p in files if p.is_file() and not _is_result(p)]
        elif glob.has_magic(source):
            files = [Path(p) for p in glob.glob(source, recursive=True)]
            files = [p for p in files if p.is_file() and not _is_result(p)]
        else:
            raise MediaFileError(f"no such file or folder: {source!r}")
        if not files:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise MediaFileError(f"no images in {source!r}; they end with {suffixes}")
        images |= {file.resolve(): file for file in sorted(files)}
    return list(images.values())


def _is_result(path: Path) -> bool:
    is_sheet = path.parent.name == "samples" and (path.parent.parent / RECIPE_FILE).exists()
    try:
        return is_sheet or bool(command_of(path))
    except MediaFileError:
        return False  # whoever reads it says what is wrong with it

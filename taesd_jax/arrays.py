"""Arrays on disk that grow row by row: memory-mapped .npy and BigTIFF, resumable and atomic."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PictureError
from .storage import write_files

TIFF = (".tif", ".tiff")
SUFFIXES = (".npy", *TIFF)


def open_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Map a .npy file or an uncompressed TIFF into memory, to read.

    Raises:
        PictureError: There is no such file, or it cannot be mapped.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in TIFF:
            return _tifffile().memmap(path, mode="r")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise PictureError(f"no such file: {path}") from error
    except PictureError:
        raise
    except Exception as error:  # numpy and tifffile raise of every kind on broken files
        raise PictureError(f"{path}: cannot be mapped into memory: {error}") from error


class GrowingArray:
    """A file that is filled from its first row down and takes its place when it is full.

    Rows are written beside the target. Whoever is killed and starts the same job again goes on
    behind the rows that were on disk; another job starts anew. The old file stays whole until the
    new one is.

    Args:
        path: Target, with a suffix of `SUFFIXES`.
        shape: Shape of the array; TIFF takes (h, w, 3).
        dtype: Its dtype; TIFF takes uint8.
        job: Everything that its content depends on.

    Attributes:
        rows: Rows on disk.
    """

    def __init__(
        self, path: str | os.PathLike[str], shape: tuple[int, ...], dtype: str, *, job: Any
    ):
        path = Path(path).resolve()
        if path.suffix.lower() not in SUFFIXES:
            raise PictureError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
        if path.is_dir():
            raise PictureError(f"expected a file, got a folder: {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.shape = path, shape
        self._beside = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._state = path.with_name(f".{path.name}.partial.json")
        text = json.dumps([job, shape, dtype], sort_keys=True)
        self._job = hashlib.sha256(text.encode()).hexdigest()
        self.rows = self._rows_on_disk()
        if not self.rows:
            self._state.unlink(missing_ok=True)
            self._create(dtype)
        self._array = self._map()

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows; they count as on disk after `flush`."""
        self._array[self.rows : self.rows + len(rows)] = rows
        self.rows += len(rows)

    def flush(self) -> None:
        """Put the rows written on disk, then say so there."""
        self._array.flush()
        self._array = self._map()  # pages that were written need not stay resident
        state = {"job": self._job, "rows": self.rows}
        write_files({self._state: json.dumps(state).encode()})

    def close(self) -> None:
        """Put the full file in its place.

        Raises:
            ValueError: Rows are missing.
        """
        if self.rows != self.shape[0]:
            raise ValueError(f"{self.rows} of {self.shape[0]} rows are written")
        self._array.flush()
        del self._array
        with self._beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._beside, self.path)
        self._state.unlink(missing_ok=True)

    def _rows_on_disk(self) -> int:
        try:
            state = json.loads(self._state.read_text())
            rows, same = state["rows"], state["job"] == self._job
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return rows if same and isinstance(rows, int) and self._beside.exists() else 0

    def _create(self, dtype: str) -> None:
        if self.path.suffix.lower() in TIFF:
            options = {"photometric": "rgb", "bigtiff": True, "metadata": None}
            _tifffile().memmap(self._beside, shape=self.shape, dtype=dtype, **options).flush()
        else:
            np.lib.format.open_memmap(self._beside, mode="w+", dtype=dtype, shape=self.shape)

    def _map(self) -> Any:
        if self.path.suffix.lower() in TIFF:
            return _tifffile().memmap(self._beside, mode="r+")
        return np.load(self._beside, mmap_mode="r+", allow_pickle=False)


def digest(leaves: Iterator[np.ndarray]) -> str:
    """Return a digest of arrays, to tell one model from another."""
    result = hashlib.sha256()
    for leaf in leaves:
        result.update(np.ascontiguousarray(leaf).view(np.uint8).tobytes())
    return result.hexdigest()


def _tifffile() -> Any:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise PictureError("TIFF files need tifffile: pip install 'taesd-jax[big]'") from error
    return tifffile

"""Arrays on disk that grow row by row: .npy and BigTIFF, resumable and atomic."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import PictureError
from .files import check_regular, resolve_target, write_files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TIFF = (".tif", ".tiff")
SUFFIXES = (".npy", *TIFF)
_RGB, _UPRIGHT = 2, 1  # of the TIFF tags PhotometricInterpretation and Orientation


def open_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Map a .npy file or an uncompressed TIFF into memory, to read.

    Raises:
        PictureError: There is no such file, or it cannot be mapped.
    """
    path = Path(path)
    try:
        check_regular(path)
        if path.suffix.lower() in TIFF:
            return _tifffile().memmap(path, mode="r")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise PictureError(f"no such file: {path}") from error
    except PictureError:
        raise
    except Exception as error:  # numpy and tifffile raise of every kind on broken files
        raise PictureError(f"{path}: cannot be mapped into memory: {error}") from error


def is_plain_tiff(path: Path) -> bool:
    """Return whether a TIFF is one upright picture of uncompressed 8-bit RGB, to be mapped."""
    try:
        with _tifffile().TiffFile(path) as file:
            page = file.pages.first
            upright = page.tags.get("Orientation")
            return (
                len(file.pages) == 1
                and page.is_memmappable
                and page.photometric == _RGB
                and (page.dtype, page.shape[2:]) == (np.uint8, (3,))
                and (upright is None or upright.value == _UPRIGHT)
            )
    except PictureError:
        raise
    except Exception:  # whatever it is, it is not that
        return False


class GrowingArray:
    """A file that is filled from its first row down and takes its place when it is full.

    Rows are written beside the target. Whoever is killed and starts the same job again goes on
    behind the rows that were on disk; another job starts anew. The old file stays whole until the
    new one is. Two runs cannot write the same target at once.

    Args:
        path: Target, with a suffix of `SUFFIXES`.
        shape: Shape of the array; the third axis from the end counts rows, those before it are 1.
            TIFF takes (h, w, 3).
        dtype: Its dtype; TIFF takes uint8.
        job: Everything that its content depends on.

    Attributes:
        rows: Rows written.

    Raises:
        PictureError: The suffix is another, or another run is writing this target.
        OSError: The file cannot be written, or is a folder, device or pipe.
    """

    def __init__(
        self, path: str | os.PathLike[str], shape: tuple[int, ...], dtype: str, *, job: Any
    ):
        path = resolve_target(path)
        if path.suffix.lower() not in SUFFIXES:
            raise PictureError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._beside = path.with_name(f".{path.stem[:100]}.partial{path.suffix}")
        self._state = self._beside.with_name(f"{self._beside.name}.json")
        # Long names may share the files beside them, hence the path.
        text = json.dumps([job, shape, dtype, os.fspath(path)], sort_keys=True)
        self._job = hashlib.sha256(text.encode()).hexdigest()
        self._file = _open_alone(self._beside, path)
        self.rows = 0
        try:
            self.rows, offset = self._resume() or (0, self._create())
        except BaseException:
            self.stop()
            raise
        row_bytes = self.dtype.itemsize * int(np.prod(shape[-2:]))
        self._file.seek(offset + self.rows * row_bytes)

    @property
    def height(self) -> int:
        """Rows of the full array."""
        return self.shape[-3]

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows; they count as on disk after `flush`."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.rows += len(rows)

    def flush(self) -> None:
        """Put the rows written on disk, then say so there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"job": self._job, "rows": self.rows}
        write_files({self._state: json.dumps(state).encode()})

    def close(self) -> None:
        """Put the full file in its place, with the mode of the old one.

        Raises:
            ValueError: Rows are missing.
        """
        if self.rows != self.height:
            raise ValueError(f"{self.rows} of {self.height} rows are written")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.path.exists():
            self._beside.chmod(self.path.stat().st_mode & 0o777)
        os.replace(self._beside, self.path)
        self._state.unlink(missing_ok=True)
        self._file.close()

    def stop(self) -> None:
        """Keep the rows so far for the next run of this job; without any leave nothing behind."""
        if not self.rows:
            self.discard()
            return
        try:
            self.flush()
        finally:
            self._file.close()

    def discard(self) -> None:
        """Leave nothing behind but the old file."""
        self._state.unlink(missing_ok=True)
        self._beside.unlink(missing_ok=True)
        self._file.close()

    def _resume(self) -> tuple[int, int] | None:
        """Return the rows on disk and where they begin, if they are of this job and whole."""
        # Whatever is broken is made anew.
        with contextlib.suppress(Exception):
            state = json.loads(self._state.read_text())
            rows, array = state["rows"], open_array(self._beside)
            fits = array.shape == self.shape and array.dtype == self.dtype
            if state["job"] == self._job and fits and type(rows) is int and 0 < rows <= self.height:
                return rows, array.offset  # pyright: ignore[reportAttributeAccessIssue]
        return None

    def _create(self) -> int:
        """Write a file of zeros; return where its rows begin."""
        self._state.unlink(missing_ok=True)
        if self.path.suffix.lower() in TIFF:
            options = {"photometric": "rgb", "bigtiff": True, "metadata": None}
            array = _tifffile().memmap(self._beside, shape=self.shape, dtype=self.dtype, **options)
        else:
            array = np.lib.format.open_memmap(
                self._beside, mode="w+", dtype=self.dtype, shape=self.shape
            )
        return array.offset


def _open_alone(path: Path, target: Path) -> BinaryIO:
    """Open a file that no other run has open; a run that is killed lets go of it."""
    while True:
        # Not through a link, which somebody else may have put there.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise PictureError(f"{path} is in the way: expected a file of an earlier run, or none")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise PictureError(f"another run is writing {target}") from error
        # Whoever had it may have put it in its place in between.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.lstat()):
            return file
        file.close()


def _tifffile() -> Any:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise PictureError("TIFF files need tifffile: pip install 'taesd-jax[big]'") from error
    return tifffile

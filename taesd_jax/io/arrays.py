"""Array files larger than memory: .npy and BigTIFF, written row by row, resumable and atomic."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import MediaFileError
from .files import reading, resolve_target, write_files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TIFF = (".tif", ".tiff")
SUFFIXES = (".npy", *TIFF)
# Values of the TIFF tags PhotometricInterpretation, PlanarConfiguration and Orientation.
_RGB = 2
_INTERLEAVED = 1
_UPRIGHT = 1
_BLOCK = 2**20


def open_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Map a .npy file or an uncompressed TIFF into memory, read-only.

    Raises:
        MediaFileError: There is no such file, or it cannot be mapped.
    """
    path = Path(path)
    with reading(path):
        if path.suffix.lower() in TIFF:
            return _import_tifffile().memmap(path, mode="r")
        return np.load(path, mmap_mode="r", allow_pickle=False)


def is_plain_tiff(path: Path) -> bool:
    """Return whether a TIFF can be mapped: one upright image in uncompressed 8-bit RGB, as sRGB."""
    try:
        with _import_tifffile().TiffFile(path) as file:
            page = file.pages.first
            upright = page.tags.get("Orientation")
            return (
                len(file.pages) == 1
                and page.is_memmappable
                and (page.photometric, page.planarconfig) == (_RGB, _INTERLEAVED)
                and "InterColorProfile" not in page.tags
                and (page.dtype, page.shape[2:]) == (np.uint8, (3,))
                and (upright is None or upright.value == _UPRIGHT)
            )
    except MediaFileError:
        raise
    except Exception:  # tifffile raises errors of every kind on other files
        return False


def partial_path(path: Path) -> Path:
    """Return the file that `ResumableArrayWriter` writes before it replaces `path`."""
    return path.with_name(f".{path.stem[:100]}.partial{path.suffix}")


class ResumableArrayWriter:
    """Write an array file row by row; the target is replaced when the array is complete.

    Rows go to a partial file beside the target. Restarting the same job resumes after the last
    flushed row, if a checksum says that the file is whole to there; a different job starts over.
    Two runs cannot write the same target at once.

    Args:
        path: Target, with one of `SUFFIXES`.
        shape: Shape of the array, (..., rows, columns, channels) with leading axes of 1; TIFF takes
            (h, w, 3).
        dtype: Dtype of the array; TIFF takes uint8.
        job: Everything that the content depends on, as JSON.
        software: What writes the file; .npy does not store it.

    Attributes:
        rows: Rows written so far.

    Raises:
        MediaFileError: The suffix is not supported, or another run is writing this target.
        OSError: The file cannot be written, or is a folder, device or pipe.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, ...],
        dtype: str,
        *,
        job: Any,
        software: str | None = None,
    ):
        path = resolve_target(path)
        if path.suffix.lower() not in SUFFIXES:
            raise MediaFileError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._partial, self._software = partial_path(path), software
        self._state = self._partial.with_name(f"{self._partial.name}.json")
        # Long names that begin alike share a partial file, hence the path.
        text = json.dumps([job, shape, dtype, os.fspath(path)], sort_keys=True)
        self._job = hashlib.sha256(text.encode()).hexdigest()
        self._file = _open_locked(self._partial, path)
        self.rows = 0
        try:
            # The checksum is of all bytes up to the next row, where the file's position then is.
            self.rows, self._checksum = self._resume() or (0, self._create())
        except BaseException:
            self.suspend()
            raise

    @property
    def height(self) -> int:
        """Rows of the complete array."""
        return self.shape[-3]

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows; a restart finds them only after `flush`."""
        content = np.ascontiguousarray(rows, self.dtype).tobytes()
        self._file.write(content)
        self._checksum = zlib.crc32(content, self._checksum)
        self.rows += len(rows)

    def flush(self) -> None:
        """Sync the rows to disk, then record their number and the checksum."""
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"job": self._job, "rows": self.rows, "crc32": self._checksum}
        write_files({self._state: json.dumps(state).encode()})

    def close(self) -> None:
        """Replace the target with the complete file, keeping its mode.

        Raises:
            ValueError: Rows are missing.
        """
        if self.rows != self.height:
            raise ValueError(f"{self.rows} of {self.height} rows are written")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.path.exists():
            self._partial.chmod(self.path.stat().st_mode & 0o777)
        os.replace(self._partial, self.path)
        self._state.unlink(missing_ok=True)
        self._file.close()

    def suspend(self) -> None:
        """Keep the rows so far for the next run of this job; without any, clean up."""
        if not self.rows:
            self.discard()
            return
        try:
            self.flush()
        finally:
            self._file.close()

    def discard(self) -> None:
        """Remove the partial file; the target stays as it was."""
        self._state.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        self._file.close()

    def _resume(self) -> tuple[int, int] | None:
        """Return the rows on disk and the checksum, if this job wrote them and they are whole."""
        # A broken partial file is started over.
        with contextlib.suppress(Exception):
            state = json.loads(self._state.read_text())
            rows, array = state["rows"], open_array(self._partial)
            same = array.shape == self.shape and array.dtype == self.dtype
            if state["job"] == self._job and same and type(rows) is int and 0 < rows <= self.height:
                row_bytes = array.nbytes // self.height
                checksum = self._move_to(array.offset + rows * row_bytes)  # pyright: ignore[reportAttributeAccessIssue]
                return (rows, checksum) if checksum == state["crc32"] else None
        return None

    def _create(self) -> int:
        """Write a file of zeros; return the checksum of its header."""
        self._state.unlink(missing_ok=True)
        if self.path.suffix.lower() in TIFF:
            options: dict[str, Any] = {"photometric": "rgb", "bigtiff": True, "metadata": None}
            options |= {"software": self._software}
            array = _import_tifffile().memmap(
                self._partial, shape=self.shape, dtype=self.dtype, **options
            )
        else:
            array = np.lib.format.open_memmap(
                self._partial, mode="w+", dtype=self.dtype, shape=self.shape
            )
        return self._move_to(array.offset)

    def _move_to(self, offset: int) -> int:
        """Move to a byte of the partial file; return the checksum of all before it."""
        checksum = 0
        # Not through `_file`, whose buffer does not notice that `_create` wrote.
        with self._partial.open("rb") as file:
            while block := file.read(min(offset - file.tell(), _BLOCK)):
                checksum = zlib.crc32(block, checksum)
        self._file.seek(offset)
        return checksum


def _open_locked(path: Path, target: Path) -> BinaryIO:
    """Open a file under a lock, which the system releases when this process ends."""
    while True:
        # Never through a link: another user may have put it there.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise MediaFileError(f"{path} is in the way: expected a partial file or none")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise MediaFileError(f"another run is writing {target}") from error
        # Another run may have completed and renamed it before the lock.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.lstat()):
            return file
        file.close()


def _import_tifffile() -> Any:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise MediaFileError("TIFF files need tifffile: pip install 'taesd-jax[big]'") from error
    return tifffile

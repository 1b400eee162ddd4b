"""Videos, frame by frame: images in a folder, or a file, with PyAV."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaFileError
from .files import reading, resolve_target, write_files
from .images import read_pixels
from .listing import IMAGE_SUFFIXES
from .sound import ADVICE, open_sound

# The encoder of each kind of file.
_CODECS = {".mp4": "libx264", ".mkv": "libx264", ".mov": "libx264", ".webm": "libvpx-vp9"}
# FFmpeg's number of that matrix.
_BT709 = 1


def read_video(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Read the frames of a video as 8-bit pixels (h, w, 3), one at a time.

    Args:
        path: A folder of images, taken in the order of their names, in which f2.png comes before
            f10.png; or a file, which needs PyAV.
            The rotation that a phone writes into a file is applied.

    Raises:
        MediaFileError: There is no such file or folder, it has no frames, or PyAV is not installed.
    """
    path = Path(path)
    if path.is_dir():
        images = [
            p
            for p in path.iterdir()
            if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
        ]
        if not images:
            raise MediaFileError(f"{path}: there are no images in it")
        yield from map(read_pixels, sorted(images, key=_natural_order))
        return
    with reading(path):
        if not path.exists():
            raise FileNotFoundError(path)
        with _import_av(path).open(str(path)) as container:
            if not container.streams.video:
                raise MediaFileError(f"{path}: there is no video in it")
            for frame in container.decode(video=0):
                yield np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    *,
    fps: float = 24,
    audio: str | os.PathLike[str] | None = None,
    software: str | None = None,
) -> int:
    """Write frames as they come, in memory that does not grow with their number.

    Args:
        path: A new or empty folder without a suffix, for frame_00000000.png and so on; or a .mp4,
            .mkv, .mov or .webm file, which needs PyAV. Nothing is there, and an existing file is
            not replaced, until all frames are written.
        frames: 8-bit pixels (h, w, 3), all of one size.
        fps: Frames a second, for a file.
        audio: A file whose sound is copied as it is, as long as the frames last; none if it has
            none.
        software: What wrote it, kept in the metadata of a file.

    Returns:
        The number of frames.

    Raises:
        MediaFileError: The suffix is another, PyAV is not installed, the folder is not empty, there
            are no frames, or they cannot be encoded; `audio` cannot be read, is of a codec that the
            file cannot hold, or is given with a folder.
        ValueError: A frame has another shape or dtype.
    """
    path = Path(path)
    check_video_path(path, has_audio=audio is not None)
    frames = _checked(frames)
    if path.suffix:
        sound = None if audio is None else Path(audio)
        count = _encode(path, frames, fps, sound, software)
    else:
        count = _write_images(path, frames)
    if not count:
        raise MediaFileError(f"{path}: there are no frames to write")
    return count


def _natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Return a key that sorts numbers in names by their value."""
    words = re.findall(r"\d+|\D+", path.name)
    return [(0, int(word)) if word.isdecimal() else (1, word) for word in words]


def check_video_path(path: Path, *, has_audio: bool = False) -> None:
    """Raise MediaFileError unless `write_video` can write here."""
    if not path.suffix:
        if has_audio:
            raise MediaFileError(f"{path}: a folder of images holds no sound; name a video file")
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise MediaFileError(f"{path}: expected a new or empty folder; name another one")
        return
    if path.suffix.lower() not in _CODECS:
        raise MediaFileError(
            f"{path}: a video must end with {', '.join(_CODECS)}, or be a folder without a suffix"
        )
    _import_av(path)


def _write_images(folder: Path, frames: Iterator[np.ndarray]) -> int:
    from PIL import Image

    count = 0
    with replacing(folder) as temporary:
        for count, pixels in enumerate(frames, 1):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            write_files({temporary / f"frame_{count - 1:08}.png": buffer.getvalue()})
    return count


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there replaces `path` unless an error is raised.

    It may become a folder. The files of one come into a folder that exists, which may be another
    disk or somebody's working folder.
    """
    name = f".{secrets.token_hex(8)}{path.suffix.lower()}"
    if inside := path.is_dir():
        target, temporary = path, path / name
    else:
        target = resolve_target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(name)
    try:
        yield temporary
        if inside and temporary.is_dir():
            for file in sorted(temporary.iterdir()):
                os.replace(file, target / file.name)
        elif temporary.exists():
            os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _encode(
    path: Path,
    frames: Iterator[np.ndarray],
    fps: float,
    audio: Path | None,
    software: str | None,
) -> int:
    av = _import_av(path)
    first = next(frames, None)
    if first is None:
        return 0
    count, rate = 0, Fraction(fps).limit_denominator(1001)
    try:
        with replacing(path) as temporary, av.open(str(temporary), "w") as container:
            if software:
                container.metadata["comment"] = software
            stream = _add_stream(container, path, first, rate)
            with open_sound(audio, container) as sound:
                for count, pixels in enumerate(itertools.chain([first], frames), 1):
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    # Players take files without a label for BT.709; the default is BT.601.
                    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
                    container.mux(stream.encode(frame))
                    if sound:
                        sound.copy(count / rate)
                container.mux(stream.encode())
    except av.FFmpegError as error:
        advice = f"; {ADVICE}" if audio else ""
        raise MediaFileError(f"{path}: cannot be encoded: {error}{advice}") from error
    return count


def _add_stream(container: Any, path: Path, first: np.ndarray, rate: Fraction) -> Any:
    height, width, _ = first.shape
    if height % 2 or width % 2:
        raise MediaFileError(f"{path}: sides must be even, got {width}x{height}")
    stream = container.add_stream(_CODECS[path.suffix.lower()], rate=rate)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.colorspace = _BT709
    return stream


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for frame in frames:
        pixels = np.asarray(frame)
        shape = shape or pixels.shape
        if pixels.dtype != np.uint8 or pixels.shape != shape or shape[2:] != (3,):
            raise ValueError(
                f"frames must be 8-bit pixels (h, w, 3) of one size, got {pixels.dtype} "
                f"{pixels.shape} after {shape}"
            )
        yield pixels


def _import_av(path: Path) -> Any:
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MediaFileError(
            f"{path}: video files need PyAV: pip install 'taesd-jax[video]'; a folder needs nothing"
        ) from error
    return av

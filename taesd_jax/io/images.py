"""Image files: 8 bits and Pillow on one side, float images in [-1, 1] on the other."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import MediaFileError
from .colors import to_srgb
from .files import reading, write_files
from .latent_png import PNG_TEXT

# Formats that keep the size of every image and, except for losses and GIF's palette, its colours.
_WRITABLE = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF",
             "WEBP")  # fmt: skip
# EXIF tags, the last orientation that leaves width and height as they are, and formats that hold
# EXIF when written by Pillow.
_ORIENTATION, _SOFTWARE = 0x0112, 0x0131
# Of an image without negative values: a decoder may overshoot 1, but not so far.
_LARGEST = 8
_ON_ITS_SIDE = (5, 6, 7, 8)
_WITH_EXIF = ("AVIF", "JPEG", "PNG", "TIFF", "WEBP")
# Formats that Pillow decodes itself; for EPS it would start another program. HEIF needs a plug-in.
_READABLE = (*_WRITABLE, "DDS", "HEIF", "ICO", "MPO", "PSD", "QOI")
# First bytes of the formats that need more than Pillow, or a better message than its own.
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as float32 (h, w, 3) in [-1, 1]; see `read_pixels`.

    Raises:
        MediaFileError: As `read_pixels`.
    """
    return from_uint8(read_pixels(path))


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as 8-bit sRGB (h, w, 3).

    The EXIF rotation is applied, an embedded colour profile is converted to sRGB, alpha is
    composited over white, 16 bits are reduced to 8, and an animation gives its first frame. HEIC
    needs pillow-heif. Formats for which Pillow starts another program are refused.

    Raises:
        MediaFileError: There is no such file, it is broken or too large, or its values are not
            unsigned integers of up to 16 bits.
    """
    path = Path(path)
    with reading(path), path.open("rb") as stream:
        return decode_pixels(stream, str(path))[0]


def decode_pixels(
    stream: BinaryIO, name: str, *, least: int | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the pixels of an encoded image, as `read_pixels` does, and its height and width.

    Args:
        stream: The encoded image.
        name: Of the image, for messages.
        least: A JPEG image may be decoded to half its size or less in a fraction of the time, as
            long as both sides have this many pixels.

    Raises:
        MediaFileError: As `read_pixels`. Pillow has errors of its own for broken images.
    """
    from PIL import Image, UnidentifiedImageError

    head = stream.read(12)
    stream.seek(0)
    if head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS:
        _register_heif(name)
    Image.init()
    try:
        formats = [kind for kind in _READABLE if kind in Image.OPEN]
        with Image.open(stream, formats=formats) as file:
            if PNG_TEXT in file.info:
                raise MediaFileError(f"{name}: a latent, not an image; decode it first")
            w, h = file.size
            if least:
                file.draft(None, (least, least))
            drafted, orientation = file.size != (w, h), file.getexif().get(_ORIENTATION)
            pixels = to_srgb(file, Path(name))
            if not drafted:
                return pixels, pixels.shape[:2]
            return pixels, (w, h) if orientation in _ON_ITS_SIDE else (h, w)
    except Image.DecompressionBombError as error:
        raise MediaFileError(
            f"{name}: too large to read at once: {error} `taesd-jax encode` reads .npy and "
            f"uncompressed .tif of any size"
        ) from error
    except UnidentifiedImageError as error:
        if head[:4] not in _TIFF_HEADS:
            # Pillow's own message has an address, which changes.
            raise MediaFileError(f"{name}: cannot be read: cannot identify its format") from error
        raise MediaFileError(
            f"{name}: Pillow does not read this kind of TIFF; save it as RGB of 8 bits"
        ) from error


def write_image(
    path: str | os.PathLike[str], image: np.ndarray, *, software: str | None = None
) -> None:
    """Write an image (h, w, 3) in [-1, 1], clipped to it, or 8-bit pixels to a file.

    The suffix names the format. An existing file is replaced only when the new one is complete.

    Args:
        path: The file.
        image: Floating point in [-1, 1], or uint8.
        software: What wrote it, kept in the EXIF data of AVIF, JPEG, PNG, TIFF and WEBP files.

    Raises:
        MediaFileError: The format is unknown or cannot hold an image of this size.
        ValueError: The image is not (h, w, 3), has NaN or infinity, or floats of 0 to 255.
        TypeError: The image is neither floating point nor uint8.
    """
    from PIL import Image

    path, image = Path(path), np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image must be (h, w, 3), got shape {image.shape}")
    kind = _format_of(path)
    pixels, buffer = image if image.dtype == np.uint8 else to_uint8(image), io.BytesIO()
    options: dict[str, Any] = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    if software and kind in _WITH_EXIF:
        options["exif"] = exif = Image.Exif()
        exif[_SOFTWARE] = software
    try:
        Image.fromarray(pixels).save(buffer, kind, **options)
    except Exception as error:  # of any kind, for example where a side is too long
        raise MediaFileError(f"{path}: cannot be written as {kind}: {error}") from error
    write_files({path: buffer.getvalue()})


def check_image_path(path: Path) -> None:
    """Raise MediaFileError unless `write_image` can write a file of this suffix."""
    _format_of(path)


def from_uint8(pixels: np.ndarray) -> np.ndarray:
    """Map 8-bit values to float32 in [-1, 1].

    Raises:
        TypeError: The pixels are not uint8.

    >>> from_uint8(np.array([0, 255], np.uint8))
    array([-1.,  1.], dtype=float32)
    """
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels must be uint8, got {pixels.dtype}")
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Map [-1, 1] to 8 bits by rounding; values outside are clipped.

    Raises:
        ValueError: The image has NaN or infinity, or is one of 0 to 255.
        TypeError: The image has integers, whose range would be a guess.

    >>> to_uint8(np.array([-1.0, 0.0, 2.0], np.float32))
    array([  0, 128, 255], dtype=uint8)
    """
    image = np.asarray(image)
    if np.issubdtype(image.dtype, np.integer) or image.dtype == bool:
        raise TypeError(f"image must be floating point in [-1, 1], got {image.dtype}")
    image = image.astype(np.float32, copy=False)
    low, high = (image.min(), image.max()) if image.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(
            "image has NaN or infinity; decode in float32 or bfloat16, and check the latent"
        )
    if low >= 0 and high > _LARGEST:
        raise ValueError(
            f"image must be in [-1, 1], got {low:g} to {high:g}; divide values of 0 to 255 by "
            f"127.5 and subtract 1"
        )
    values = np.clip(image, -1, 1)
    values += 1  # in place: each copy of a large image takes as long as the arithmetic
    values *= np.float32(127.5)
    return np.round(values).astype(np.uint8)


def pad_image(image: np.ndarray, multiple: int) -> np.ndarray:
    """Repeat the last row and column of (h, w, 3) until `multiple` divides both sides.

    >>> pad_image(np.zeros((9, 16, 3)), 8).shape
    (16, 16, 3)
    """
    h, w, _ = image.shape
    return np.pad(image, ((0, -h % multiple), (0, -w % multiple), (0, 0)), mode="edge")


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of two images in [-1, 1], rounded to 8 bits.

    10 log10(255^2 / mean squared error); infinite for equal images.

    >>> psnr(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)))
    inf
    """
    difference = to_uint8(image).astype(np.float64) - to_uint8(other)
    error = np.mean(difference**2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _register_heif(name: str) -> None:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MediaFileError(f"{name}: HEIC needs pillow-heif: pip install pillow-heif") from error
    pillow_heif.register_heif_opener()


def _format_of(path: Path) -> str:
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in _WRITABLE:
        raise MediaFileError(f"{path}: unknown image format {path.suffix!r}; use .png or .jpg")
    return kind

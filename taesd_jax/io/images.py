"""Pictures on disk: 8 bits and Pillow on one side, float images of [-1, 1] on the other."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PictureError
from .files import check_regular, write_files

# What Pillow decodes itself; for EPS it would start another program.
_READ = ("AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI")
_READ += ("PSD", "SGI", "TGA", "TIFF", "WEBP", "HEIF")  # the last by a plug-in
# What keeps the size of every picture and, but for losses and GIF's palette, its colours.
_WRITTEN = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF")
_WRITTEN += ("WEBP",)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as a float32 image (h, w, 3) in [-1, 1], as `read_pixels` does.

    Raises:
        PictureError: There is no such file, it is broken, or it holds floating point.
    """
    return from_uint8(read_pixels(path))


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as 8-bit RGB (h, w, 3).

    It is turned as its EXIF data says, alpha is laid over white, 16-bit grey is rounded to 8 bits,
    and of an animation the first frame is taken. Formats that other programs would decode are not
    read.

    Raises:
        PictureError: There is no such file, it is broken, or it holds floating point.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    try:
        check_regular(path)
        Image.init()
        with Image.open(path, formats=[name for name in _READ if name in Image.OPEN]) as file:
            picture = ImageOps.exif_transpose(file)
            return _to_rgb(picture, file.format, path)
    except FileNotFoundError as error:
        raise PictureError(f"no such picture: {path}") from error
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise of every kind on broken files
        raise PictureError(f"{path}: not a whole picture: {error}") from error


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write a float image (h, w, 3) of [-1, 1] as a picture; values outside are clipped.

    The suffix names the format. An existing file stays whole until the new one is on disk.

    Raises:
        PictureError: The image is not finite or not (h, w, 3), or the format is unknown.
    """
    from PIL import Image

    path = Path(path)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise PictureError(f"image must be (h, w, 3), got shape {image.shape}")
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in _WRITTEN:
        raise PictureError(f"{path}: unknown picture format {path.suffix!r}; use .png or .jpg")
    buffer = io.BytesIO()
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    try:
        Image.fromarray(to_uint8(image)).save(buffer, kind, **options)
    except Exception as error:  # of every kind, for example where a side is too long
        raise PictureError(f"{path}: cannot be written as {kind}: {error}") from error
    write_files({path: buffer.getvalue()})


def from_uint8(pixels: np.ndarray) -> np.ndarray:
    """Map 8-bit values to float32 in [-1, 1].

    >>> from_uint8(np.array([0, 255], np.uint8))
    array([-1.,  1.], dtype=float32)
    """
    if pixels.dtype != np.uint8:
        raise PictureError(f"pixels must be uint8, got {pixels.dtype}")
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Map [-1, 1] to 8 bits by rounding; values outside are clipped.

    >>> to_uint8(np.array([-1.0, 0.0, 2.0], np.float32))
    array([  0, 128, 255], dtype=uint8)

    Raises:
        PictureError: A value is not finite, or they are integers, whose range would be a guess.
    """
    image = np.asarray(image)
    if np.issubdtype(image.dtype, np.integer) or image.dtype == bool:
        raise PictureError(f"image must be floating point in [-1, 1], got {image.dtype}")
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        raise PictureError(
            "image has NaN or infinity; decode in float32 or bfloat16, and check the latent"
        )
    return np.round((np.clip(image, -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)


def pad_image(image: np.ndarray, multiple: int) -> np.ndarray:
    """Repeat the last row and column of (h, w, 3) until `multiple` divides both sides.

    >>> pad_image(np.zeros((9, 16, 3)), 8).shape
    (16, 16, 3)
    """
    h, w, _ = image.shape
    return np.pad(image, ((0, -h % multiple), (0, -w % multiple), (0, 0)), mode="edge")


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two images in dB, as their 8-bit pictures show it.

    10 log10(255^2 / mean squared error); infinite for equal pictures.

    >>> psnr(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)))
    inf
    """
    difference = to_uint8(image).astype(np.float64) - to_uint8(other)
    error = np.mean(difference**2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _to_rgb(picture: Any, kind: str | None, path: Path) -> np.ndarray:
    from PIL import Image

    if picture.mode == "F":
        raise PictureError(f"{path}: expected 8 or 16 bits a channel, got floating point")
    if picture.mode == "I" and kind not in ("PNG", "PPM"):
        raise PictureError(f"{path}: expected 8 or 16 bits a channel, got 32")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        grey = np.asarray(picture)
        if (clear := picture.info.get("transparency")) is not None:
            grey = np.where(grey == clear, 65535, grey)  # white
        grey = np.round(grey / 257).astype(np.uint8)  # 65535 = 255 * 257
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    pixels = np.asarray(picture.convert("RGB"))
    if 0 in pixels.shape:
        raise PictureError(f"{path}: the picture is empty")
    return pixels

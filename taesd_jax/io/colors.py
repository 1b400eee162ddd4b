"""Opened images of every Pillow mode, as 8-bit sRGB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaFileError

_EXPECTED = "expected unsigned integers of 8 or 16 bits"
# TIFF tags and the values that matter here.
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 259, 262, 284, 339
_UNCOMPRESSED, _WHITE_IS_ZERO, _SEPARATE = 1, 0, 2
_SAMPLE_KINDS = {2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex"}
_PLAIN_MODES = {"1": "L", "LA": "L", "L": "L", "CMYK": "CMYK"}
# Modes in which an image can be converted by a profile of a colour space.
_PROFILE_MODES = {"GRAY": ("L",), "RGB": ("L", "RGB"), "CMYK": ("CMYK",)}


def to_srgb(file: Any, path: Path) -> np.ndarray:
    """Return an image that Pillow opened as 8-bit sRGB (h, w, 3).

    This applies the EXIF rotation, converts from an embedded ICC profile, and composites alpha over
    white. What has no usable profile is taken for sRGB.

    Raises:
        MediaFileError: Its values are not unsigned integers of up to 16 bits, or Pillow would
            misread them.
    """
    from PIL import Image, ImageOps

    tags = dict(file.tag_v2) if file.format == "TIFF" else {}
    _check_tiff(tags, path)
    if file.mode == "F" or (file.mode == "I" and file.format not in ("PNG", "PPM")):
        raise MediaFileError(f"{path}: {_EXPECTED}, got Pillow's mode {file.mode}")
    # In place, and converted only where that changes something: each would be a copy.
    ImageOps.exif_transpose(file, in_place=True)
    image = file
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _grey_to_8_bits(image, tags)
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = image if image.mode in ("L", "LA") else rgba
    image = _convert(image, _PLAIN_MODES.get(image.mode, "RGB"))
    image = _convert(_apply_profile(image, file.info.get("icc_profile")), "RGB")
    if alpha:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    if 0 in image.size:
        raise MediaFileError(f"{path}: the image is empty")
    return np.asarray(image)


def _convert(image: Any, mode: str) -> Any:
    return image if image.mode == mode else image.convert(mode)


def _check_tiff(tags: dict[int, Any], path: Path) -> None:
    """Raise MediaFileError for the kinds of TIFF that Pillow opens and misreads."""
    bits = tags.get(_BITS, (1,))
    kinds = tags.get(_SAMPLE_FORMAT, (1,))
    if unfit := [_SAMPLE_KINDS[kind] for kind in kinds if kind in _SAMPLE_KINDS]:
        raise MediaFileError(f"{path}: {_EXPECTED}, got {unfit[0]}")
    if max(bits) > 16:
        raise MediaFileError(f"{path}: {_EXPECTED}, got {max(bits)}")
    if tags.get(_PLANAR) == _SEPARATE and len(bits) > 1:
        misread = max(bits) > 8 and tags.get(_COMPRESSION) == _UNCOMPRESSED
        if misread or len(bits) == 2:
            raise MediaFileError(
                f"{path}: its channels are stored apart (planar configuration 2), which is not "
                f"read with {len(bits)} channels of {max(bits)} bits; store them interleaved"
            )


def _grey_to_8_bits(image: Any, tags: dict[int, Any]) -> Any:
    from PIL import Image

    grey, top = np.asarray(image), 2 ** max(tags.get(_BITS, (16,))) - 1
    if (transparent := image.info.get("transparency")) is not None:
        grey = np.where(grey == transparent, top, grey)  # white
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = top - grey
    return Image.fromarray(np.round(grey * (255 / top)).astype(np.uint8))


def _apply_profile(image: Any, profile: bytes | None) -> Any:
    """Convert an image to sRGB, if it has a usable ICC profile of another colour space."""
    from PIL import Image, ImageCms

    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space: str = getattr(source.profile, "xcolor_space", "").strip()
        if image.mode not in _PROFILE_MODES.get(space, ()):
            return image
        mode = "L" if space == "GRAY" else space
        # Optimised tables of greys are coarse: 10 of 255 levels off for a linear profile.
        flags = ImageCms.Flags.NOOPTIMIZE if space == "GRAY" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags
        )
    except (OSError, ImageCms.PyCMSError):
        return image
    if space == "RGB":
        levels = np.linspace(0, 255, 16, dtype=np.uint8)
        samples = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
        converted = np.asarray(ImageCms.applyTransform(Image.fromarray(samples), transform))
        # Images in sRGB keep their bits: the transform rounds some values to the next level.
        if np.abs(converted.astype(int) - samples).max() <= 1:
            return image
    return ImageCms.applyTransform(image.convert(mode), transform)

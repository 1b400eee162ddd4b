"""Encoded pictures made into pixels of the sizes that a model is run with."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np

from ..io.images import decode_pixels, pad_image

# A JPEG may be decoded smaller, but this much larger than wanted: resizing hides what it costs.
_DRAFT = 2
# Of buckets: steps between sides, as models are trained with, and the longest shape.
_STEP, _LONGEST = 64, 2.5


class Geometry(NamedTuple):
    """What becomes of a picture's size.

    Attributes:
        sizes: (height, width) that pictures are cropped at the centre and resized to, the nearest
            in shape; none to keep their size.
        multiple: Pixels that divide the sides of what is encoded; edges are repeated up to there.
    """

    sizes: tuple[tuple[int, int], ...]
    multiple: int


class Picture(NamedTuple):
    """A picture, ready to encode.

    Attributes:
        pixels: (h, w, 3) uint8.
        image_size: Height and width before edges were repeated.
        crop: Top, left, height and width in the source picture, upright.
    """

    pixels: np.ndarray
    image_size: tuple[int, int]
    crop: tuple[int, int, int, int]


def square(side: int, *, multiple: int) -> Geometry:
    """Return the geometry of squares.

    Raises:
        ValueError: `multiple` does not divide the side.
    """
    if side % multiple:
        near = max(round(side / multiple), 1) * multiple
        raise ValueError(f"expected a size that {multiple} divides, such as {near}, got {side}")
    return Geometry(((side, side),), multiple)


def buckets(side: int, *, multiple: int) -> Geometry:
    """Return the geometry of shapes of about `side` x `side` pixels, at most 2.5 times as long.

    >>> buckets(512, multiple=8).sizes
    ((320, 768), (384, 640), (448, 576), (512, 512), (576, 448), (640, 384), (768, 320))
    """
    square(side, multiple=multiple)
    step = math.lcm(multiple, min(_STEP, max(side // 8 // multiple, 1) * multiple))
    sizes = set()
    for short in range(side // step * step, 0, -step):
        long = side * side // short // step * step
        if long <= short * _LONGEST:
            sizes |= {(short, long), (long, short)}
    return Geometry(tuple(sorted(sizes)), multiple)


def load_picture(data: bytes, name: str, geometry: Geometry) -> Picture:
    """Decode, crop and resize a picture; of an animation the first frame.

    Raises:
        MediaFileError: It is no picture; Pillow has errors of its own for broken ones.
    """
    least = _DRAFT * max(max(size) for size in geometry.sizes) if geometry.sizes else None
    pixels, (h, w) = decode_pixels(io.BytesIO(data), name, least=least)
    if not geometry.sizes:
        return Picture(pad_image(pixels, geometry.multiple), (h, w), (0, 0, h, w))
    size = min(geometry.sizes, key=lambda size: abs(math.log(size[0] * w / (size[1] * h))))
    scale = max(size[0] / h, size[1] / w)
    # Of a picture that is far too long the side rounds to 0.
    height, width = max(min(round(size[0] / scale), h), 1), max(min(round(size[1] / scale), w), 1)
    crop = (h - height) // 2, (w - width) // 2, height, width
    return Picture(_resize(pixels, crop, (h, w), size), size, crop)


def mirror(picture: Picture, multiple: int) -> np.ndarray:
    """Return the pixels of a picture mirrored left to right, edges repeated as for the picture."""
    h, w = picture.image_size
    return pad_image(picture.pixels[:h, :w][:, ::-1], multiple)


def _resize(
    pixels: np.ndarray,
    crop: tuple[int, int, int, int],
    full: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """Resize a crop of the full picture, of which the pixels may be a smaller version."""
    from PIL import Image

    top, left, height, width = crop
    if pixels.shape[:2] == full and (height, width) == size:
        return pixels[top : top + height, left : left + width]
    # A JPEG is decoded at exactly 1/2, 1/4 or 1/8, with sides rounded up.
    y, x = (1 / round(whole / have) for have, whole in zip(pixels.shape, full, strict=False))
    box = left * x, top * y, (left + width) * x, (top + height) * y
    resized = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS, box)
    return np.asarray(resized)

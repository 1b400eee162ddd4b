"""Random square crops of images; a crop depends only on its number, the recipe and the images."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import MediaFileError, warn
from ..io.images import from_uint8, read_pixels, to_uint8
from .recipe import Recipe

# YIQ: Rec. 601 luma, and two axes of colour.
_TO_YIQ = np.array(
    [(0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], np.float32
)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


class Crops:
    """An endless, numbered sequence of crops; a source for grain.

    Args:
        images: Files. Those that cannot be read, or are too small, are reported once, and others
            take their place.
        recipe: Size, downscaling, colours, candidates and seed.
        memory: Bytes of decoded images to keep.

    Raises:
        MediaFileError: There are no images.
    """

    def __init__(self, images: Sequence[Path], recipe: Recipe, *, memory: int = 2**31):
        if not images:
            raise MediaFileError("there are no images to train on")
        self.images, self.recipe, self.memory = list(images), recipe, memory
        self._skipped: set[Path] = set()
        self._decoded: collections.OrderedDict[Path, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, number: int) -> np.ndarray:
        """Return a crop (crop_size, crop_size, 3) of 8 bits.

        Raises:
            MediaFileError: None of the images can be used.
        """
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, number))
        first = int(rng.integers(len(self.images)))
        for offset in range(len(self.images)):
            path = self.images[(first + offset) % len(self.images)]
            if (pixels := self._read(path)) is not None:
                crops = (self._cut(pixels, rng) for _ in range(recipe.crop_candidates))
                crop = next(crops) if recipe.crop_candidates == 1 else max(crops, key=_busyness)
                crop = augment(rng, crop, hue=recipe.hue, saturation=recipe.saturation)
                return to_uint8(crop)
        raise MediaFileError(f"none of the {len(self.images)} images can be used")

    def _cut(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        h, w, _ = pixels.shape
        target = self.recipe.crop_size
        size = min(round(target * self.recipe.max_downscale ** rng.uniform()), h, w)
        top, left = (int(rng.integers(side - size + 1)) for side in (h, w))
        return resize_square(pixels[top : top + size, left : left + size], target)

    def _read(self, path: Path) -> np.ndarray | None:
        with self._lock:
            if path in self._skipped:
                return None
            if (pixels := self._decoded.get(path)) is not None:
                self._decoded.move_to_end(path)
                return pixels
        try:
            pixels = read_pixels(path)
            check_size(path, pixels, self.recipe.crop_size)
        except (MediaFileError, OSError) as error:
            with self._lock:
                if path not in self._skipped:
                    self._skipped.add(path)
                    warn(f"skipped {error}")
            return None
        with self._lock:
            self._decoded[path] = pixels
            while len(self._decoded) > 1 and self._decoded_bytes() > self.memory:
                self._decoded.popitem(last=False)
        return pixels

    def _decoded_bytes(self) -> int:
        return sum(pixels.nbytes for pixels in self._decoded.values())


def augment(
    rng: np.random.Generator, image: np.ndarray, *, hue: float, saturation: float
) -> np.ndarray:
    """Flip an image at random and change its colours; luma is kept unless a value is clipped.

    Args:
        rng: Source of randomness.
        image: (h, w, 3) in [-1, 1].
        hue: Largest rotation of the colours, in turns; 0.5 reaches every hue.
        saturation: Saturation is multiplied by up to 1 + saturation, or its inverse.
    """
    flip, turn, strength = rng.uniform(-1, 1, 3)
    image = image[:, ::-1] if flip < 0 else image
    angle, factor = 2 * np.pi * hue * turn, (1 + saturation) ** strength
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    rotation = np.array([(1, 0, 0), (0, cos, -sin), (0, sin, cos)], np.float32)
    # [-1, 1] needs no offset: the mix maps every grey to itself.
    mix = _FROM_YIQ @ rotation @ _TO_YIQ
    return np.clip(image @ mix.T, -1, 1)


def _busyness(image: np.ndarray) -> float:
    """Return the mean difference between neighbouring pixels."""
    return sum(float(np.abs(np.diff(image, axis=axis)).mean()) for axis in (0, 1))


def resize_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize an 8-bit square (h, h, 3) to an image (size, size, 3) in [-1, 1]."""
    from PIL import Image

    square = Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)
    return from_uint8(np.asarray(square))


def check_size(path: Path, pixels: np.ndarray, minimum: int) -> None:
    """Raise MediaFileError for an image (h, w, 3) with a side below the minimum."""
    h, w, _ = pixels.shape
    if min(h, w) < minimum:
        raise MediaFileError(f"{path}: {w}x{h} is too small, need at least {minimum} pixels a side")


def describe_images(images: Iterable[Path]) -> list[str]:
    """Return names and sizes in bytes, which tell training runs apart; "gone" for no file."""
    return [f"{p.name}:{p.stat().st_size if p.exists() else 'gone'}" for p in images]

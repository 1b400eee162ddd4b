"""Random square crops of pictures: crop i is the same whenever and wherever it is asked for."""

from __future__ import annotations

import collections
import glob
import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import PictureError
from ..io.images import from_uint8, read_pixels, to_uint8
from .augmentation import augment

# In the folder of a training.
RECIPE_FILE = "recipe.json"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".gif")


class Crops:
    """Crops of pictures by number, without end; a source for grain.

    Args:
        pictures: Files; those that cannot be read, or are too small, are reported once, and others
            take their place.
        side: Of a crop, in pixels.
        seed: With the number it decides everything about a crop.
        shrink: A crop is made of side to side * shrink pixels of its picture.
        hue: See `augment`.
        saturation: See `augment`.
        candidates: Of so many crops of a picture the busiest is taken, often one of a large
            part of it: skies teach little.
        memory: Bytes of decoded pictures to keep.

    Raises:
        PictureError: There are no pictures.
    """

    def __init__(
        self,
        pictures: Sequence[Path],
        *,
        side: int,
        seed: int = 0,
        shrink: float = 6.0,
        hue: float = 0.05,
        saturation: float = 0.3,
        candidates: int = 1,
        memory: int = 2**31,
    ):
        if not pictures:
            raise PictureError("there are no pictures to train on")
        self.pictures, self.side, self.seed, self.shrink = list(pictures), side, seed, shrink
        self.hue, self.saturation = hue, saturation
        self.candidates, self.memory = candidates, memory
        self._bad: set[Path] = set()
        self._kept: collections.OrderedDict[Path, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, number: int) -> np.ndarray:
        """Return a crop (side, side, 3), 8 bits.

        Raises:
            PictureError: None of the pictures can be used.
        """
        rng = np.random.default_rng((self.seed, number))
        first = int(rng.integers(len(self.pictures)))
        for step in range(len(self.pictures)):
            path = self.pictures[(first + step) % len(self.pictures)]
            if (pixels := self._read(path)) is not None:
                cuts = (self._cut(pixels, rng) for _ in range(self.candidates))
                crop = next(cuts) if self.candidates == 1 else max(cuts, key=_busyness)
                crop = augment(rng, crop, hue=self.hue, saturation=self.saturation)
                return to_uint8(crop)
        raise PictureError(f"none of the {len(self.pictures)} pictures can be used")

    def _cut(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        h, w, _ = pixels.shape
        size = min(round(self.side * self.shrink ** rng.uniform()), h, w)
        top, left = (int(rng.integers(edge - size + 1)) for edge in (h, w))
        return shrink_square(pixels[top : top + size, left : left + size], self.side)

    def _read(self, path: Path) -> np.ndarray | None:
        with self._lock:
            if path in self._bad:
                return None
            if (pixels := self._kept.get(path)) is not None:
                self._kept.move_to_end(path)
                return pixels
        try:
            pixels = read_pixels(path)
            if min(pixels.shape[:2]) < self.side:
                h, w, _ = pixels.shape
                raise PictureError(f"{path}: {w}x{h} is too small, crops have {self.side} pixels")
        except (PictureError, OSError) as error:
            with self._lock:
                if path not in self._bad:
                    self._bad.add(path)
                    warnings.warn(f"skipped {error}", stacklevel=2)
            return None
        with self._lock:
            self._kept[path] = pixels
            while len(self._kept) > 1 and sum(p.nbytes for p in self._kept.values()) > self.memory:
                self._kept.popitem(last=False)
        return pixels


def _busyness(image: np.ndarray) -> float:
    """Return the mean difference of neighbouring pixels."""
    return sum(float(np.abs(np.diff(image, axis=axis)).mean()) for axis in (0, 1))


def shrink_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrink an 8-bit square (h, h, 3) to an image (side, side, 3) in [-1, 1]."""
    from PIL import Image

    square = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
    return from_uint8(np.asarray(square))


def list_pictures(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List pictures, each once and by name, of folders with theirs, files and glob patterns.

    Sample sheets of trainings are left out, unless they are named one by one.

    Raises:
        PictureError: A source has none.
    """
    found: dict[Path, Path] = {}
    for each in sources:
        source = os.fspath(each)
        path = Path(source)
        if path.is_dir():
            names = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
            names = _without_sheets(names)
        elif path.exists() or not glob.has_magic(source):
            names = [path] if path.is_file() else []
        else:
            names = [p for p in map(Path, glob.glob(source, recursive=True)) if p.is_file()]
            names = _without_sheets(names)
        if not (names or path.exists() or glob.has_magic(source)):
            raise PictureError(f"no such file or folder: {source!r}")
        if not names:
            raise PictureError(f"no pictures in {source!r}; they end with {', '.join(SUFFIXES)}")
        found |= {name.resolve(): name for name in sorted(names)}
    return list(found.values())


def describe_pictures(pictures: Iterable[Path]) -> list[str]:
    """Return names and sizes, which tell trainings apart; of a picture that is gone its name."""
    return [f"{p.name}:{p.stat().st_size if p.exists() else 'gone'}" for p in pictures]


def _without_sheets(paths: list[Path]) -> list[Path]:
    """Leave out the sample sheets of trainings."""
    return [
        path
        for path in paths
        if path.parent.name != "samples" or not (path.parent.parent / RECIPE_FILE).exists()
    ]

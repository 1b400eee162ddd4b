"""Batches of crops by step number, and a folder of crops with what the teacher computes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..errors import TrainingError, one_line
from ..io.files import write_files
from ..io.images import from_uint8, to_uint8
from .crops import Crops, describe_images
from .recipe import Recipe
from .records import check_or_write_metadata, locked
from .teachers import Teacher, as_pytree, run_teacher

# Crops that the teacher computes at a time; fixed, because another number gives other bits.
_BLOCK = 32
_PROGRESS_BLOCKS = 16  # between calls of `progress`
_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Threads that cut crops; Pillow releases the GIL. Their number does not change the crops, but each
# may hold an image in memory.
_THREADS = min(_CPUS, 16)
_READ_AHEAD = 16  # batches or blocks that are cut before they are needed
_CROPS = ("num_crops", "crop_size", "seed", "max_downscale", "hue", "saturation", "crop_candidates")


class TeacherCache:
    """The first `recipe.num_crops` crops with what the teacher computes from them.

    Each block of crops is a few .npy files in the folder. `fill` computes the missing blocks.

    Args:
        folder: Where the files are or will be.
        crops: The crops; if their recipe has a teacher_blend, reconstructions are kept too.
        teacher: Computes latents and reconstructions.
        teacher_digest: With the crops, it tells whether a folder is the right one.
    """

    def __init__(self, folder: Path, crops: Crops, teacher: Teacher, *, teacher_digest: str):
        assert crops.recipe.num_crops is not None
        self.folder, self.crops, self.teacher = folder, crops, teacher
        self.count = crops.recipe.num_crops
        self._names = ("image", "latent") + ("decoded",) * bool(crops.recipe.teacher_blend)
        self._metadata = {name: getattr(crops.recipe, name) for name in _CROPS} | {
            "images": describe_images(crops.images),
            "teacher": teacher_digest,
        }

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Return a crop: "image" and perhaps "decoded" of 8 bits, "latent" of float32."""
        return {name: self._read(name, number) for name in self._names}

    def fill(self, progress: Callable[[int, int], object] = lambda done, count: None) -> None:
        """Compute what is missing; `progress` is called with the numbers of crops done and in all.

        Raises:
            TrainingError: The folder has other crops or the results of another teacher.
        """
        # Another training run that shares the folder waits until everything is there.
        with locked(self.folder, blocking=True):
            path = self.folder / "cache.json"
            check_or_write_metadata(path, self._metadata, kind="a teacher's cache")
            missing = [
                first
                for first in range(0, self.count, _BLOCK)
                if not all(self._path(name, first).exists() for name in self._names)
            ]
            import grain

            blocks = _read_ahead(grain.MapDataset.source(missing).map(self._cut))
            for i, (first, crops) in enumerate(zip(missing, blocks, strict=True), 1):
                self._write(first, crops)
                if i % _PROGRESS_BLOCKS == 0 or i == len(missing):
                    progress(first + len(crops), self.count)

    def _cut(self, first: int) -> np.ndarray:
        last = min(first + _BLOCK, self.count)
        return np.stack([self.crops[number] for number in range(first, last)])

    def _write(self, first: int, crops: np.ndarray) -> None:
        padded = np.concatenate([crops, crops[:1].repeat(_BLOCK - len(crops), axis=0)])
        latents, decoded = run_teacher(
            as_pytree(self.teacher), from_uint8(padded), decode="decoded" in self._names
        )
        values = {"image": crops, "latent": np.asarray(latents)[: len(crops)]}
        if decoded is not None:
            values["decoded"] = to_uint8(np.asarray(decoded)[: len(crops)])
        write_files({self._path(name, first): _to_npy(x) for name, x in values.items()})

    def _read(self, name: str, number: int) -> np.ndarray:
        path = self._path(name, number)
        try:
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[number % _BLOCK])
        except (ValueError, OSError, IndexError) as error:
            raise TrainingError(f"{path} cannot be read ({one_line(error)}); delete it") from error

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}_{number // _BLOCK:06}.npy"


def iter_batches(
    source: Crops | TeacherCache, recipe: Recipe, start: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches after step `start` up to the last; each depends on its number alone.

    Images have 8 bits, so that devices get a quarter of the bytes.
    """
    import grain

    data = grain.MapDataset.source(cast(Any, source)).seed(recipe.seed)
    if isinstance(source, TeacherCache):
        data = data.shuffle().repeat()
    else:
        data = data.map(lambda image: {"image": image})
    data = data.slice(slice(start * recipe.batch_size, recipe.steps * recipe.batch_size))
    return _read_ahead(data.batch(recipe.batch_size))


def _read_ahead(data: Any) -> Iterator[Any]:
    import grain

    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD)
    return iter(data.to_iter_dataset(options))


def _to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()

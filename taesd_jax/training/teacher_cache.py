"""Batches of crops by step number, and a folder of crops with what the teacher computes."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import TrainingError, one_line
from ..io.files import write_files
from ..io.images import from_uint8, to_uint8
from .crops import Crops, describe_images
from .recipe import Recipe
from .records import differing_metadata, locked, write_metadata
from .teachers import Teacher, as_pytree, decode_with, encode_with

# Crops that the teacher computes at a time; fixed, because another number gives other bits.
_BLOCK = 32
_PROGRESS_BLOCKS = 16  # between calls of `progress`
_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Threads that cut crops; Pillow releases the GIL. Their number does not change the crops, but each
# may hold an image in memory.
_THREADS = min(_CPUS, 16)
_CROPS = ("num_crops", "crop_size", "seed", "max_downscale", "hue", "saturation", "crop_candidates")


class TeacherCache:
    """The first `recipe.num_crops` crops with what the teacher computes from them.

    Each block of crops is a few .npy files in the folder. `fill` computes the missing blocks.

    Args:
        folder: Where the files are or will be.
        crops: The crops; if their recipe has a teacher_blend, reconstructions are kept too.
        teacher: Computes latents and reconstructions.
        teacher_digest: With the crops, it tells whether a folder is the right one.

    Raises:
        TrainingError: The folder is of other crops or another teacher.
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
        self._check_metadata()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Return a crop: "image" and perhaps "decoded" of 8 bits, "latent" of float32."""
        return {name: self._read(name, number) for name in self._names}

    def fill(self, progress: Callable[[int, int], object] = lambda done, count: None) -> None:
        """Compute what is missing; `progress` is called with the numbers of crops done and in all.

        Raises:
            TrainingError: See `TeacherCache`.
        """
        # Another training that shares the folder waits until everything is there.
        with locked(self.folder, blocking=True):
            self._check_metadata()
            write_metadata(self._metadata_file, self._metadata)
            pool = ThreadPoolExecutor(_THREADS)
            try:
                self._fill(pool, progress)
            finally:
                pool.shutdown(cancel_futures=True)

    def _fill(self, pool: Executor, progress: Callable[[int, int], object]) -> None:
        missing = [
            first
            for first in range(0, self.count, _BLOCK)
            if not all(self._path(name, first).exists() for name in self._names)
        ]
        pending = self._cut(pool, missing[:1])
        for i, first in enumerate(missing, 1):
            crops = np.stack([crop.result() for crop in pending])
            pending = self._cut(pool, missing[i : i + 1])  # while the teacher computes
            padded = np.concatenate([crops, crops[:1].repeat(_BLOCK - len(crops), axis=0)])
            outputs = _run_teacher(
                as_pytree(self.teacher), from_uint8(padded), decode="decoded" in self._names
            )
            values = {name: np.asarray(x)[: len(crops)] for name, x in outputs.items()}
            if "decoded" in values:
                values["decoded"] = np.stack(list(pool.map(to_uint8, values["decoded"])))
            values["image"] = crops
            write_files({self._path(name, first): _to_npy(x) for name, x in values.items()})
            if i % _PROGRESS_BLOCKS == 0 or i == len(missing):
                progress(first + len(crops), self.count)

    def _cut(self, pool: Executor, firsts: Sequence[int]) -> list[Future[np.ndarray]]:
        return [
            pool.submit(self.crops.__getitem__, number)
            for first in firsts
            for number in range(first, min(first + _BLOCK, self.count))
        ]

    def _check_metadata(self) -> None:
        if differing := differing_metadata(self._metadata_file, self._metadata):
            raise TrainingError(
                f"{self.folder} is a cache of other {', '.join(differing)}; name another folder"
            )

    def _read(self, name: str, number: int) -> np.ndarray:
        path = self._path(name, number)
        try:
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[number % _BLOCK])
        except (ValueError, OSError, IndexError) as error:
            raise TrainingError(f"{path} cannot be read ({one_line(error)}); delete it") from error

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}_{number // _BLOCK:06}.npy"

    @property
    def _metadata_file(self) -> Path:
        return self.folder / "cache.json"


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
    data = data.batch(recipe.batch_size)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=16)
    return iter(data.to_iter_dataset(options))


@functools.partial(jax.jit, static_argnames="decode")
def _run_teacher(teacher: Teacher, images: jax.Array, *, decode: bool) -> dict[str, jax.Array]:
    def run(image: jax.Array) -> dict[str, jax.Array]:
        latent = encode_with(teacher, image[None])
        outputs = {"latent": latent[0]}
        if decode and (sample := decode_with(teacher, latent)) is not None:
            outputs["decoded"] = sample[0]
        return outputs

    # One at a time: the activations of a batch would not fit the caches.
    return jax.lax.map(run, jnp.asarray(images))


def _to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()

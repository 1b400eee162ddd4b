"""Batches of crops by step number, with the teacher's answers where they are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import TrainingError, one_line
from ..io.files import write_files
from ..io.images import from_uint8, to_uint8
from .crops import Crops, describe_pictures
from .recipe import Recipe
from .records import locked, read_facts
from .teachers import Teacher, as_pytree, decode_with, encode_with

# Crops that the teacher answers at a time; always the same, so that the bits are, too.
_BLOCK = 32
# That cut crops: Pillow lets go of Python's lock. The crops are the same for any number of them,
# but each may have a picture in memory.
_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_THREADS = min(_CPUS, 16)
_CROP_OPTIONS = ("side", "seed", "shrink", "hue", "saturation", "candidates")


class Answers:
    """The first crops with a teacher's latents and, of a model, what it decodes from them.

    They lie in a folder as .npy files, computed once by `fill`; a fill that was killed goes on.

    Args:
        folder: Where they are, or will be.
        crops: The crops.
        count: How many of them.
        teacher: Who answers.
        name: Of the teacher; with the crops' options it tells whether the folder is the right one.
        decoded: Whether to keep what the teacher decodes.

    Raises:
        TrainingError: The folder has answers of other crops or of another teacher, or lacks decoded
            pictures.
    """

    def __init__(
        self,
        folder: Path,
        crops: Crops,
        count: int,
        teacher: Teacher,
        *,
        name: str,
        decoded: bool,
    ):
        self.folder, self.crops, self.count, self.teacher = folder, crops, count, teacher
        self.decoded = decoded
        self._facts = {
            "pictures": describe_pictures(crops.pictures),
            "teacher": name,
            "count": count,
            **{option: getattr(crops, option) for option in _CROP_OPTIONS},
        }
        self._file, self._keep = folder / "answers.json", decoded
        self._done()
        self._arrays: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Return one crop with its answers: "image" and "decoded" of 8 bits, "latent" float32."""
        if self._arrays is None:
            self._arrays = {name: self._open(name) for name in self._names}
        return {name: np.array(array[number]) for name, array in self._arrays.items()}

    def fill(self, progress: Callable[[int, int], object] = lambda done, count: None) -> None:
        """Compute what is missing; `progress` is told how many of how many are done."""
        # Another training that shares the folder waits until all is there.
        with locked(self.folder, wait=True):
            pool = ThreadPoolExecutor(_THREADS)
            try:
                self._fill(progress, pool)
            finally:
                pool.shutdown(cancel_futures=True)

    def _fill(self, progress: Callable[[int, int], object], pool: Executor) -> None:
        # Once more: what was there first may have been written since.
        done = self._done()
        if not done:
            self._tell(0)
        answer = jax.jit(_answer, static_argnames="decoded")
        arrays: dict[str, np.ndarray] = {}

        def cut(first: int) -> list[Future[np.ndarray]]:
            numbers = range(first, min(first + _BLOCK, self.count))
            return [pool.submit(self.crops.__getitem__, i) for i in numbers]

        coming = cut(done)
        while done < self.count:
            images = np.stack([crop.result() for crop in coming])
            numbers = range(done, done + len(images))
            coming = cut(numbers.stop)  # while the teacher answers
            padded = np.concatenate([images, images[:1].repeat(_BLOCK - len(images), axis=0)])
            found = answer(as_pytree(self.teacher), from_uint8(padded), decoded=self._keep)
            values = {name: np.asarray(value)[: len(images)] for name, value in found.items()}
            if self._keep:
                values["decoded"] = np.stack(list(pool.map(to_uint8, values["decoded"])))
            for name, value in ({"image": images} | values).items():
                if name not in arrays:
                    shape = (self.count, *value.shape[1:])
                    mode = "r+" if done else "w+"
                    # numpy fills up what is cut, and does not look at the rest.
                    if done and (there := self._open(name)).shape != shape:
                        raise TrainingError(
                            f"{self._path(name)} must be {shape}, got {there.shape}; delete "
                            f"{self.folder}"
                        )
                    kind: Any = {"mode": mode, "dtype": value.dtype, "shape": shape}
                    arrays[name] = np.lib.format.open_memmap(self._path(name), **kind)
                    _reserve(self._path(name))
                arrays[name][numbers.start : numbers.stop] = value
            done = numbers.stop
            if done == self.count or done % (16 * _BLOCK) == 0:
                for array in arrays.values():
                    array.flush()  # pyright: ignore[reportAttributeAccessIssue]
                self._tell(done)
                progress(done, self.count)

    def _done(self) -> int:
        """Return how many are there; raise TrainingError if they are not of these crops."""
        if not self._file.exists():
            return 0
        found = read_facts(self._file)
        if other := sorted(k for k, v in self._facts.items() if found.get(k) != v):
            raise TrainingError(
                f"{self.folder} has answers for other {', '.join(other)}; name another folder"
            )
        done, kept = found.get("done"), found.get("decoded")
        if not isinstance(done, int) or not isinstance(kept, bool):
            raise TrainingError(f"{self._file} does not say what is done; name another folder")
        if self.decoded and not kept:
            raise TrainingError(
                f"{self.folder} lacks what the teacher decodes, which imitation needs; name "
                f"another folder"
            )
        self._keep = kept
        return done

    def _tell(self, done: int) -> None:
        facts = json.dumps({**self._facts, "decoded": self._keep, "done": done}, indent=1)
        write_files({self._file: facts.encode()})

    def _open(self, name: str) -> np.ndarray:
        try:
            array = np.load(self._path(name), mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            raise TrainingError(
                f"{self._path(name)} cannot be read ({one_line(error)}); delete {self.folder}"
            ) from error
        if len(array) != self.count:
            raise TrainingError(
                f"{self._path(name)} has {len(array)} answers, not {self.count}; delete "
                f"{self.folder}"
            )
        return array

    @property
    def _names(self) -> tuple[str, ...]:
        return ("image", "latent", "decoded") if self.decoded else ("image", "latent")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def batches(source: Crops | Answers, recipe: Recipe, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches from step `start` to the last; each depends on its number alone.

    Pictures have 8 bits: devices get a quarter of the bytes, and `make_step`'s steps take them.
    """
    import grain

    data = grain.MapDataset.source(cast(Any, source)).seed(recipe.seed)
    if isinstance(source, Answers):
        data = data.shuffle().repeat()
    else:
        data = data.map(lambda image: {"image": image})
    data = data.slice(slice(start * recipe.batch, recipe.steps * recipe.batch))
    data = data.batch(recipe.batch)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=16)
    return iter(data.to_iter_dataset(options))


def _reserve(path: Path) -> None:
    """Take a file's blocks now: a full disk is an error here, and a crash where it is mapped."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _answer(teacher: Teacher, images: jax.Array, *, decoded: bool) -> dict[str, jax.Array]:
    # One after the other: a batch's activations would not fit the caches.
    def one(image: jax.Array) -> dict[str, jax.Array]:
        latent = encode_with(teacher, image[None])
        found = {"latent": latent[0]}
        if decoded and (sample := decode_with(teacher, latent)) is not None:
            found["decoded"] = sample[0]
        return found

    return jax.lax.map(one, jnp.asarray(images))

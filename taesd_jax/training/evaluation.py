"""How good a student is on held-out pictures, in numbers and as a picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..config import AutoencoderTinyConfig
from ..errors import PictureError
from ..io.images import psnr, read_pixels
from ..model.functional import Params
from ..model.layers import Component
from ..strategies.run import decode, encode
from .crops import shrink_square
from .teachers import Teacher, as_pytree, decode_with, encode_with

# Pictures on a sheet.
_SHOWN = 6


class HeldOut:
    """Held-out pictures with the teacher's answers, to measure a student with.

    Args:
        pictures: Files; the largest square in the middle of each is shrunk to `side`. Those that
            cannot be read, or are too small, are reported and left out.
        side: In pixels.
        teacher: Gives latents; a model with a decoder also decodes them.
        half: Which half the student is.
        config: Of the student.

    Raises:
        PictureError: None can be used.
    """

    def __init__(
        self,
        pictures: Sequence[Path],
        *,
        side: int,
        teacher: Teacher,
        half: Component,
        config: AutoencoderTinyConfig,
    ):
        self.half, self.config = half, config
        self.images = _squares(pictures, side)  # (n, side, side, 3)
        self._teacher = as_pytree(teacher)
        self.latents, self.reference = _ask(self._teacher, self.images)
        self._run = jax.jit(self._results)

    def measure(self, half_params: Params) -> tuple[dict[str, float], np.ndarray]:
        """Return the mean PSNR in dB of the student's pictures and the teacher's, and a sheet.

        A picture without any error counts 100 dB. An encoder's pictures are what the teacher
        decodes from its latents; the mean squared error of the latents stands beside, alone where
        the teacher has no decoder. The sheet (h, w, 3) shows in rows some originals, the teacher's
        pictures and the student's.
        """
        latents, samples = self._run(half_params, self._teacher)
        found = {}
        if self.half == "encoder":
            found["latent_mse"] = float(jnp.mean((latents - self.latents) ** 2))
        if samples is not None:
            found["psnr"] = self._psnr(samples)
        if self.reference is not None:
            found["teacher_psnr"] = self._psnr(self.reference)
        rows = (self.images, self.reference, samples)
        shown = [np.asarray(row[:_SHOWN]) for row in rows if row is not None]
        return found, np.concatenate([np.concatenate(list(row), axis=1) for row in shown])

    def _results(self, half_params: Params, teacher: Any) -> tuple[jax.Array, jax.Array | None]:
        params, config = {self.half: half_params}, self.config
        if self.half == "decoder":
            run = lambda z: decode(params, z, config=config)  # noqa: E731
            return self.latents, _one_by_one(run, self.latents)
        latents = _one_by_one(lambda x: encode(params, x, config=config), self.images)
        return latents, _one_by_one(lambda z: decode_with(teacher, z), latents)

    def _psnr(self, samples: jax.Array) -> float:
        pairs = zip(np.asarray(self.images), np.asarray(samples), strict=True)
        return float(np.mean([min(psnr(image, sample), 100) for image, sample in pairs]))


@jax.jit
def _ask(teacher: Any, images: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    latents = _one_by_one(lambda x: encode_with(teacher, x), images)
    return latents, _one_by_one(lambda z: decode_with(teacher, z), latents)


def _one_by_one(run: Any, xs: jax.Array) -> Any:
    # Activations of all at once would not fit the caches, nor a small GPU.
    return jax.tree.map(lambda y: y[:, 0], lax.map(lambda x: run(x[None]), xs))


def _squares(pictures: Sequence[Path], side: int) -> jax.Array:
    found = []
    for path in pictures:
        try:
            found.append(_square(path, side))
        except PictureError as error:
            warnings.warn(f"skipped {error}", stacklevel=3)
    if not found:
        raise PictureError(f"none of the {len(pictures)} held-out pictures can be used")
    return jnp.stack(found)


def _square(path: Path, side: int) -> np.ndarray:
    pixels = read_pixels(path)
    h, w, _ = pixels.shape
    edge = min(h, w)
    if edge < side:
        raise PictureError(f"{path}: {w}x{h} is too small, held-out pictures need {side} pixels")
    top, left = (h - edge) // 2, (w - edge) // 2
    return shrink_square(pixels[top : top + edge, left : left + edge], side)

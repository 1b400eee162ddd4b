"""How good a student is on held-out images, in numbers and as a sheet of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import MediaFileError, warn
from ..io.images import psnr, read_pixels
from ..model.functional import Params
from ..strategies.run import decode, encode
from .crops import check_size, resize_square
from .run_options import RunOptions
from .step import StepContext
from .teachers import decode_with, run_teacher

_SHEET_IMAGES = 6  # columns of a sheet
_MAX_PSNR = 100.0  # dB; a single image without any error would make the mean infinite


class Evaluator:
    """Held-out images with the teacher's results, to evaluate a student with.

    The largest central square of each image is resized to `eval_size`. Files that cannot be read,
    or are too small, are reported and left out.

    Raises:
        MediaFileError: None of the images can be used.
        ValueError: `eval_size` does not fit the student.
    """

    def __init__(self, options: RunOptions, context: StepContext):
        if options.eval_size % (factor := context.config.spatial_factor):
            raise ValueError(f"eval_size must be a multiple of {factor}, got {options.eval_size}")
        self._context = context
        self._images = _read_squares(options.held_out, options.eval_size)  # (n, size, size, 3)
        self._latents, self._reconstructions = run_teacher(
            context.teacher, self._images, decode=True
        )

    def evaluate(self, component_params: Params) -> tuple[dict[str, float], np.ndarray]:
        """Return the mean PSNR of the student and of the teacher in dB, and a sheet of images.

        An encoder's images are what the teacher decodes from its latents. The mean squared error
        of its latents is there too, and alone if the teacher has no decoder.

        Returns:
            The numbers by name, and a sheet (h, w, 3): a row of originals, one of the teacher's
            images and one of the student's.
        """
        metrics, context = {}, self._context
        latents, samples = _run_student(context, component_params, self._images, self._latents)
        if context.recipe.component == "encoder":
            metrics["latent_mse"] = float(jnp.mean((latents - self._latents) ** 2))
        if samples is not None:
            metrics["psnr"] = self._mean_psnr(samples)
        if self._reconstructions is not None:
            metrics["teacher_psnr"] = self._mean_psnr(self._reconstructions)
        rows = (self._images, self._reconstructions, samples)
        rows = [np.asarray(row[:_SHEET_IMAGES]) for row in rows if row is not None]
        return metrics, np.concatenate([np.concatenate(list(row), axis=1) for row in rows])

    def _mean_psnr(self, samples: jax.Array) -> float:
        pairs = zip(np.asarray(self._images), np.asarray(samples), strict=True)
        return float(np.mean([min(psnr(image, sample), _MAX_PSNR) for image, sample in pairs]))


@jax.jit
def _run_student(
    context: StepContext, params: Params, images: jax.Array, latents: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Return the student's latents, or the given ones for a decoder, and the images of these."""
    component, config = {context.recipe.component: params}, context.config

    def run(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
        image, latent = (x[None] for x in pair)
        if context.recipe.component == "decoder":
            sample = decode(component, latent, config=config)
        else:
            latent = encode(component, image, config=config)
            sample = decode_with(context.teacher, latent)
        return latent[0], None if sample is None else sample[0]

    # One at a time, as in `run_teacher`.
    return lax.map(run, (images, latents))


def _read_squares(paths: Sequence[str | os.PathLike[str]], size: int) -> jax.Array:
    images = []
    for path in map(Path, paths):
        try:
            pixels = read_pixels(path)
            check_size(path, pixels, size)
        except MediaFileError as error:
            warn(f"skipped {error}")
            continue
        h, w, _ = pixels.shape
        side = min(h, w)
        top, left = (h - side) // 2, (w - side) // 2
        images.append(resize_square(pixels[top : top + side, left : left + side], size))
    if not images:
        raise MediaFileError(f"none of the {len(paths)} held-out images can be used")
    return jnp.stack(images)

"""What a training refuses, before it starts and at its steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import TrainingError
from .recipe import Recipe
from .run_options import RunOptions
from .state import State
from .teachers import Teacher, as_pytree, encode_with


def check_fit(
    config: AutoencoderTinyConfig, recipe: Recipe, teacher: Teacher, options: RunOptions
) -> None:
    """Raise TrainingError for sizes that do not fit the models or the devices."""
    factor = config.spatial_factor
    for name, size in (("crop_size", recipe.crop_size), ("eval_size", options.eval_size)):
        if size % factor or size < 1:
            raise TrainingError(f"{name} must be a multiple of {factor}, got {size}")
    latent_size = recipe.crop_size // factor
    image = jax.ShapeDtypeStruct((1, recipe.crop_size, recipe.crop_size, 3), jnp.float32)
    expected = (1, latent_size, latent_size, config.latent_channels)
    if (shape := jax.eval_shape(encode_with, as_pytree(teacher), image).shape) != expected:
        raise TrainingError(
            f"the teacher must return latents {expected} for images {image.shape}, as the "
            f"student's config says, got {shape}"
        )
    mesh = options.mesh
    if mesh is not None and recipe.batch_size % (devices := mesh.shape[mesh.axis_names[0]]):
        raise TrainingError(
            f"batch_size must be a multiple of {devices} devices, got {recipe.batch_size}"
        )
    if options.teacher_cache and recipe.num_crops is None:
        raise TrainingError("teacher_cache needs a number of crops: set num_crops (--num-crops)")


def check_finite(loss: float, state: State, number: int) -> None:
    """Raise TrainingError rather than keep a state that nothing can be learnt from again."""
    if not (np.isfinite(loss) and _is_finite((state.params, state.ema))):
        raise TrainingError(
            f"loss or params are not finite at step {number}, the loss is {loss}; try a lower "
            f"learning_rate"
        )


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))

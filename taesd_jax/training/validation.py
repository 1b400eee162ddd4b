"""What a training refuses, before it starts and at its steps."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ..config import AutoencoderTinyConfig
from ..errors import TrainingError
from .recipe import Recipe
from .state import State
from .teachers import encode_with


def check_arguments(
    config: AutoencoderTinyConfig,
    recipe: Recipe,
    teacher: Any,
    held_side: int,
    log_every: int,
    measure_every: int,
    mesh: Mesh | None,
) -> None:
    """Raise TrainingError for what would fail only after preparations."""
    for name in ("grain", "orbax"):
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"training needs {name}: pip install 'taesd-jax[train]'")
    for name, side in (("side", recipe.side), ("held_side", held_side)):
        if side % config.spatial_factor or side < 1:
            raise TrainingError(f"{name} must be a multiple of {config.spatial_factor}, got {side}")
    small = recipe.side // config.spatial_factor
    image = jax.ShapeDtypeStruct((1, recipe.side, recipe.side, 3), jnp.float32)
    got, wanted = (jax.eval_shape(encode_with, teacher, image).shape, (1, small, small))
    if got != (*wanted, config.latent_channels):
        raise TrainingError(
            f"the teacher must give latents {(*wanted, config.latent_channels)} of images "
            f"{image.shape}, as the student's config says, got {got}"
        )
    if log_every < 1 or measure_every < 1:
        raise TrainingError(
            f"log_every and measure_every must be 1 or more, got {log_every} and {measure_every}"
        )
    if mesh is not None and recipe.batch % mesh.shape[mesh.axis_names[0]]:
        devices = mesh.shape[mesh.axis_names[0]]
        raise TrainingError(f"batch must be a multiple of {devices} devices, got {recipe.batch}")


def check_finite(loss: float, state: State, number: int) -> None:
    """Raise TrainingError rather than keep a state that nothing can be learnt from again."""
    if not (np.isfinite(loss) and _is_finite((state.params, state.ema))):
        raise TrainingError(
            f"loss or params are not finite at step {number}, the loss is {loss}; try a lower rate"
        )


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))

"""What a training changes from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..config import AutoencoderTinyConfig
from ..model.functional import Params
from ..model.layers import split_layers
from .discriminator import Buffer, init_discriminator, new_buffer
from .optimizers import critic_optimizer, optimizer_of
from .recipe import Recipe


class State(NamedTuple):
    """All that a training changes.

    Attributes:
        step: Steps done.
        params: The trained half.
        ema: Its average over the last steps.
        optimizer: State of the optimizer.
        critic: Params, optimizer's state and `Buffer` of the discriminator, or None.
    """

    step: jax.Array
    params: Params
    ema: Params
    optimizer: Any
    critic: tuple[Params, Any, Buffer] | None


def init_state(half_params: Params, config: AutoencoderTinyConfig, recipe: Recipe) -> State:
    """Return the state before the first step."""
    # Copies: a step gives its state's memory back.
    masters = jax.tree.map(lambda p: jnp.array(p, jnp.float32), half_params)
    average = jax.tree.map(jnp.array, masters)
    critic = None
    if "adversarial" in recipe.losses:
        key = jax.random.fold_in(jax.random.key(recipe.seed), 2**31)
        judge = init_discriminator(key, latent_channels=config.latent_channels)
        side, small = recipe.side, recipe.side // config.spatial_factor
        buffer = new_buffer((recipe.buffer, side, side, 3), small, config.latent_channels)
        critic = (judge, critic_optimizer().init(judge), buffer)
    frozen = frozen_layers(config, recipe)
    moved = {name: value for name, value in masters.items() if name not in frozen}
    optimizer = optimizer_of(recipe).init(moved)
    return State(jnp.zeros((), jnp.int32), masters, average, optimizer, critic)


def frozen_layers(config: AutoencoderTinyConfig, recipe: Recipe) -> frozenset[str]:
    """Name the layers that a recipe keeps as they are.

    Raises:
        ValueError: The half has no further stage.
    """
    near_latent, _ = split_layers(recipe.half, config, recipe.frozen)
    return frozenset(layer.name for layer in near_latent)

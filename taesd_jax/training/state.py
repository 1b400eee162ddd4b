"""What a training run changes from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..config import AutoencoderTinyConfig
from ..model.functional import Params
from ..model.layers import split_layers
from .discriminator import DiscriminatorState, ReplayBuffer, init_discriminator
from .optimizers import discriminator_optimizer, make_optimizer
from .recipe import Recipe


class State(NamedTuple):
    """All that a training run changes.

    Attributes:
        step: Number of steps done.
        params: Params of the trained component.
        ema: Their average over the last steps.
        optimizer: State of the optimizer.
        discriminator: None without one.
    """

    step: jax.Array
    params: Params
    ema: Params
    optimizer: Any
    discriminator: DiscriminatorState | None


def init_state(component_params: Params, config: AutoencoderTinyConfig, recipe: Recipe) -> State:
    """Return the state before the first step."""
    # Copies: a step donates the memory of its state.
    params = jax.tree.map(lambda p: jnp.array(p, jnp.float32), component_params)
    ema = jax.tree.map(jnp.array, params)
    _, trainable = split_frozen(params, config, recipe)
    moments = make_optimizer(recipe).init(trainable)
    discriminator = _init_discriminator(config, recipe) if recipe.needs("discriminator") else None
    return State(jnp.zeros((), jnp.int32), params, ema, moments, discriminator)


def _init_discriminator(config: AutoencoderTinyConfig, recipe: Recipe) -> DiscriminatorState:
    count, size, channels = recipe.replay_size, recipe.crop_size, config.latent_channels
    small = size // config.spatial_factor
    key = jax.random.fold_in(jax.random.key(recipe.seed), 2**31)
    params = init_discriminator(key, latent_channels=channels)
    buffer = ReplayBuffer(
        jnp.zeros((count, size, size, 3), jnp.float32),
        jnp.zeros((count, small, small, channels), jnp.float32),
        jnp.zeros((), jnp.int32),
    )
    return DiscriminatorState(params, discriminator_optimizer().init(params), buffer)


def split_frozen(
    params: Params, config: AutoencoderTinyConfig, recipe: Recipe
) -> tuple[Params, Params]:
    """Split a component's params into those of frozen stages and trainable ones.

    Raises:
        ValueError: The component has too few stages.
    """
    near_latent, _ = split_layers(recipe.component, config, recipe.frozen_stages)
    names = {layer.name for layer in near_latent}
    frozen = {name: value for name, value in params.items() if name in names}
    return frozen, {name: value for name, value in params.items() if name not in names}


@jax.jit
def is_finite(tree: Any) -> jax.Array:
    """Return whether no array of a pytree has NaN or infinity."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))

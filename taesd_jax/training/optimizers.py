"""Optimizers of students and discriminators, with their rates over the steps."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from ..model.functional import Params
from .recipe import Recipe

# Of Muon's rate: what the biases and the outermost kernels, which Adam moves, are moved with.
_ADAM_SHARE = 0.25
# Kernels from or to images and latents are no matrices worth making orthogonal.
_LEAST_WIDTH = 8


def optimizer_of(recipe: Recipe) -> optax.GradientTransformation:
    """Return what moves a student's params."""
    warmup = min(recipe.warmup, recipe.steps // 4)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else recipe.rate, recipe.rate, warmup, recipe.steps, recipe.rate / 100
    )
    if recipe.optimizer == "muon":
        return muon(
            rate,
            muon_weight_dimension_numbers=cast(Any, _matrices),
            adam_learning_rate=cast(Any, lambda step: _ADAM_SHARE * rate(step)),
            adam_b1=0.9,
            adam_b2=recipe.beta2,
        )
    if recipe.optimizer == "amsgrad":
        # As in PyTorch the maximum is of the second moment as it is, and corrected for its bias
        # afterwards: before, the first gradient's square would stand for ever.
        corrected = lambda step: rate(step) * jnp.sqrt(1 - recipe.beta2 ** (step + 1.0))  # noqa: E731
        return optax.amsgrad(corrected, b1=0.9, b2=recipe.beta2, bias_correction_nu=False)
    return optax.adamw(rate, b1=0.9, b2=recipe.beta2)


def critic_optimizer() -> optax.GradientTransformation:
    """Return what moves a discriminator's params."""
    return optax.adamw(3e-4)


def _matrices(params: Params) -> Any:
    """Name the kernels that Muon takes as matrices of everything that enters a channel."""

    def dimensions(p: jax.Array) -> MuonDimensionNumbers | None:
        inner = p.ndim == 4 and min(p.shape[2:]) >= _LEAST_WIDTH
        return MuonDimensionNumbers((0, 1, 2), (3,)) if inner else None

    return jax.tree.map(dimensions, params)

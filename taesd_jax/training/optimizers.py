"""Optimizers of students and discriminators; what the extra `train` brings is imported in here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from ..model.functional import Params
from .recipe import OPTIMIZERS, Recipe

if TYPE_CHECKING:
    import optax
    from optax.contrib import MuonDimensionNumbers

# Adam moves biases and the outermost kernels with this share of Muon's learning rate.
_ADAM_SHARE = 0.25
# Kernels from or to images and latents are not matrices worth orthogonalising.
_MIN_MUON_WIDTH = 8


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Return the optimizer of a student's params."""
    import optax
    from optax.contrib import muon

    peak, beta2 = OPTIMIZERS[recipe.optimizer]
    peak = peak if recipe.learning_rate is None else recipe.learning_rate
    warmup = min(recipe.warmup, recipe.steps // 4)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else peak, peak, warmup, recipe.steps, peak / 100
    )
    if recipe.optimizer == "muon":
        return muon(
            rate,
            muon_weight_dimension_numbers=cast(Any, _muon_dimensions),
            adam_learning_rate=cast(Any, lambda step: _ADAM_SHARE * rate(step)),
            adam_b1=0.9,
            adam_b2=beta2,
        )
    # PyTorch takes the maximum of the raw second moment and corrects its bias afterwards. The other
    # way round, the square of the first gradient would remain the maximum for ever.
    corrected = lambda step: rate(step) * jnp.sqrt(1 - beta2 ** (step + 1.0))  # noqa: E731
    return optax.amsgrad(corrected, b1=0.9, b2=beta2, bias_correction_nu=False)


def discriminator_optimizer() -> optax.GradientTransformation:
    """Return the optimizer of a discriminator's params."""
    import optax

    return optax.adamw(3e-4)


def apply_gradient(
    optimizer: optax.GradientTransformation, gradient: Params, moments: Any, params: Params
) -> tuple[Params, Any]:
    """Return the params after a step, and the optimizer's state."""
    # optax raises a float to an integer count, which JAX's strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = optimizer.update(gradient, moments, params)
    return jax.tree.map(jnp.add, params, updates), moments


def _muon_dimensions(params: Params) -> Any:
    """Return how Muon takes inner kernels as matrices: all inputs of a channel by channels."""
    from optax.contrib import MuonDimensionNumbers

    def dimensions(p: jax.Array) -> MuonDimensionNumbers | None:
        inner = p.ndim == 4 and min(p.shape[2:]) >= _MIN_MUON_WIDTH
        return MuonDimensionNumbers((0, 1, 2), (3,)) if inner else None

    return jax.tree.map(dimensions, params)

"""The clear latents that a sampler's noisy ones are expected to become."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def predict_x0(
    latents: jax.Array,
    output: jax.Array,
    *,
    kind: Literal["epsilon", "v", "flow"],
    alpha: ArrayLike = 1.0,
    sigma: ArrayLike,
) -> jax.Array:
    """Predict the clean latents x0 from noisy ones, alpha x0 + sigma noise, and a model's output.

    Args:
        latents: Noisy latents (n, ...).
        output: What the model predicts: the noise ("epsilon"), alpha noise - sigma x0 ("v",
            arXiv:2202.00512) or noise - x0 ("flow", arXiv:2209.03003).
        kind: What the output is.
        alpha: sqrt(alphas_cumprod) of a DDPM schedule, 1 for schedules whose sigmas exceed 1
            (Karras). Ignored for "flow", where it is 1 - sigma.
        sigma: sqrt(1 - alphas_cumprod) of a DDPM schedule, otherwise the schedule's sigma. Like
            alpha a scalar, one value per example (n,), or any shape with the latents' rank.

    Raises:
        ValueError: The kind is unknown, or alpha or sigma has another shape.

    >>> x0, noise = jnp.float32(2), jnp.float32(1)
    >>> float(predict_x0(0.75 * x0 + 0.25 * noise, noise - x0, kind="flow", sigma=0.25))
    2.0
    """
    alpha, sigma = (_per_example(jnp.asarray(v, latents.dtype), latents) for v in (alpha, sigma))
    if kind == "epsilon":
        return (latents - sigma * output) / alpha
    if kind == "v":
        return alpha * latents - sigma * output
    if kind == "flow":
        return latents - sigma * output
    raise ValueError(f"kind must be 'epsilon', 'v' or 'flow', got {kind!r}")


def _per_example(value: jax.Array, latents: jax.Array) -> jax.Array:
    if value.shape == latents.shape[:1] and latents.ndim > 1:
        return value.reshape(-1, *[1] * (latents.ndim - 1))
    if value.ndim not in (0, latents.ndim):
        raise ValueError(
            f"alpha and sigma must be scalars, have shape {latents.shape[:1]} or rank "
            f"{latents.ndim}, got shape {value.shape}"
        )
    return value

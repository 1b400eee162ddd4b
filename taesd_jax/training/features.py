"""Features inside a model, for a student to match a teacher's."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ..config import AutoencoderTinyConfig
from ..kernels import Convolve, convolve
from ..model.functional import Params, bind
from ..model.layers import Component, changes_size, layers_of
from ..model.modules import apply_layer, to_unsigned


def stage_features(
    half_params: Params,
    x: jax.Array,
    *,
    half: Component,
    config: AutoencoderTinyConfig,
    remat: bool = False,
    nudges: Sequence[jax.Array] | None = None,
    convolve: Convolve = convolve,
) -> tuple[jax.Array, list[jax.Array]]:
    """Return what a half gives, and what leaves each of its stages, in the input's dtype.

    An encoder's stem belongs to its first stage.

    Args:
        half_params: `params["encoder"]` or `params["decoder"]`.
        x: Images (n, h, w, 3) or latents (n, h, w, z), in the dtype to compute in.
        half: Which half.
        config: Architecture.
        remat: Recompute blocks in the backward pass.
        nudges: Added to the stages' features, each to one's.
        convolve: What the convolutions do, see `kernel_gradients`.

    Returns:
        Latents or images, as of `encode` and `decode`, and (n, h, w, c) of each stage in the order
        in which they run, the last of them before the last convolution.
    """
    module = bind(half_params, half, config)
    module.set_attributes(convolve=convolve)
    found: list[jax.Array] = []
    if half == "encoder":
        x = to_unsigned(x)
    layers, opening = layers_of(half, config), 1
    if half == "encoder" and config.encoder_stem_channels:
        opening = len(config.encoder_stem_channels)
    for i, layer in enumerate(layers):
        if i >= opening and (changes_size(layer) or i == len(layers) - 1):
            x = x if nudges is None else x + nudges[len(found)]
            found.append(x)
        if remat and layer.kind == "block":
            x = jax.checkpoint(lambda x, layer=layer: apply_layer(module, layer, x))(x)
        else:
            x = apply_layer(module, layer, x)
    return x, found


def feature_distance(features: list[jax.Array], wanted: list[jax.Array]) -> jax.Array:
    """Return the mean squared error of features, each stage's in units of its variance.

    The channels of a stage are not weighed apart; `response_distance` does that. Stages of other
    widths in the two models are left out; one at least must be as wide in both.
    """
    parts = []
    for a, b in zip(features, wanted, strict=True):
        if a.shape == b.shape:
            a, b = a.astype(jnp.float32), b.astype(jnp.float32)
            parts.append(jnp.mean((a - b) ** 2) / (jnp.var(b) + 1e-12))
    return jnp.mean(jnp.stack(parts))


def responses(
    half_params: Params,
    x: jax.Array,
    key: jax.Array,
    *,
    half: Component,
    config: AutoencoderTinyConfig,
) -> list[jax.Array]:
    """Return how strongly a half's result responds to the features of each of its stages.

    It is the mean of J^T J over places, (c, c), where J is the result's derivative by the features
    of a place: an error e of the features moves the result by e^T J^T J e, squared and summed, as
    long as errors of other places do not go along with it. Random signs v give it as the mean of
    (J^T v)(J^T v)^T (Hutchinson's estimator).

    Args:
        half_params: `params["encoder"]` or `params["decoder"]`.
        x: Images (n, h, w, 3) or latents (n, h, w, z).
        key: Of the signs.
        half: Which half.
        config: Architecture.

    Returns:
        (c, c) of each stage, in the order of `stage_features`.
    """
    run = functools.partial(stage_features, half_params, half=half, config=config)

    def measure(pair: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
        x, key = pair[0][None], pair[1]
        still = [jnp.zeros_like(feature) for feature in run(x)[1]]
        result, pull = jax.vjp(lambda nudges: run(x, nudges=nudges)[0], still)
        (gradients,) = pull(jax.random.rademacher(key, result.shape, result.dtype))
        return [jnp.einsum("nhwc,nhwd->cd", g, g) / (g.size / g.shape[-1]) for g in gradients]

    # One after the other: only one's activations are kept.
    found = jax.lax.map(measure, (x, jax.random.split(key, len(x))))
    return [matrix.mean(0) for matrix in found]


def response_distance(
    features: list[jax.Array], wanted: list[jax.Array], weights: list[jax.Array]
) -> jax.Array:
    """Return the squared error of features as far as the result responds to it.

    Each stage's is in units of what the result owes to the stage; stages of other widths in the two
    models are left out. See `responses`.

    Args:
        features: Of the student, (n, h, w, c) of each stage.
        wanted: Of the teacher.
        weights: (c, c) of each stage, from `responses` of the teacher.
    """
    parts = []
    for a, b, weight in zip(features, wanted, weights, strict=True):
        if a.shape == b.shape:
            a, b = a.astype(jnp.float32), b.astype(jnp.float32)
            apart, spread = (
                jnp.einsum("nhwc,cd,nhwd->", x, weight, x)
                for x in (a - b, b - b.mean((0, 1, 2), keepdims=True))
            )
            parts.append(apart / (spread + 1e-12))
    return jnp.mean(jnp.stack(parts))

"""Features inside a model, for a student to match its teacher's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ..config import AutoencoderTinyConfig
from ..kernels import conv_fast_kernel_grad
from ..model.functional import Params, bind
from ..model.layers import Component, build_layers, is_resampling
from ..model.modules import apply_layer, to_unsigned


def stage_features(
    component_params: Params,
    x: jax.Array,
    *,
    component: Component,
    config: AutoencoderTinyConfig,
    remat: bool = False,
    perturbations: Sequence[jax.Array] | None = None,
) -> tuple[jax.Array, list[jax.Array]]:
    """Run a component and return its result and the features of its stages.

    Args:
        component_params: `params["encoder"]` or `params["decoder"]`.
        x: Images (n, h, w, 3) or latents (n, h, w, z), in the dtype to compute in.
        component: "encoder" or "decoder".
        config: Architecture.
        remat: Recompute blocks in the backward pass.
        perturbations: Added to the features of each stage.

    Returns:
        What `encode` or `decode` returns, and (n, h, w, c) at the end of each stage, in the order
        in which they run. An encoder's stem belongs to the first stage; the last stage ends before
        the last convolution.
    """
    module = bind(component_params, component, config)
    module.set_attributes(convolve=conv_fast_kernel_grad)
    features: list[jax.Array] = []
    if component == "encoder":
        x = to_unsigned(x)
    layers, opening = build_layers(component, config), 1
    if component == "encoder" and config.encoder_stem_channels:
        opening = len(config.encoder_stem_channels)
    for i, layer in enumerate(layers):
        if i >= opening and (is_resampling(layer) or i == len(layers) - 1):
            x = x if perturbations is None else x + perturbations[len(features)]
            features.append(x)
        if remat and layer.kind == "block":
            x = jax.checkpoint(lambda x, layer=layer: apply_layer(module, layer, x))(x)
        else:
            x = apply_layer(module, layer, x)
    return x, features


def feature_distance(features: list[jax.Array], targets: list[jax.Array]) -> jax.Array:
    """Return the mean squared error of features, each stage divided by its target's variance.

    These are the hints of Romero et al. 2015, "FitNets". All channels of a stage count alike.
    Stages whose widths differ are left out; at least one must be equal.
    """

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.mean((a - b) ** 2) / (jnp.var(b) + 1e-12)

    return _mean_of_stages(distance, features, targets)


def response_distance(
    features: list[jax.Array], targets: list[jax.Array], sensitivity: list[jax.Array]
) -> jax.Array:
    """Return `feature_distance`, with errors and variances weighted by `output_sensitivity`."""

    def distance(a: jax.Array, b: jax.Array, matrix: jax.Array) -> jax.Array:
        error, variance = (
            jnp.einsum("nhwc,cd,nhwd->", x, matrix, x)
            for x in (a - b, b - b.mean((0, 1, 2), keepdims=True))
        )
        return error / (variance + 1e-12)

    return _mean_of_stages(distance, features, targets, sensitivity)


def _mean_of_stages(distance: Callable[..., jax.Array], *stages: list[jax.Array]) -> jax.Array:
    distances = [
        distance(a.astype(jnp.float32), b.astype(jnp.float32), *weights)
        for a, b, *weights in zip(*stages, strict=True)
        if a.shape == b.shape
    ]
    return jnp.mean(jnp.stack(distances))


@functools.partial(jax.jit, static_argnames=("component", "config"))
def output_sensitivity(
    component_params: Params,
    x: jax.Array,
    key: jax.Array,
    *,
    component: Component,
    config: AutoencoderTinyConfig,
) -> list[jax.Array]:
    """Return how strongly a component's output responds to the features of each stage.

    This is the Gauss-Newton matrix J^T J, averaged over places, where J is the derivative of the
    output with respect to the features of one place. A feature error e changes the output by
    e^T J^T J e, squared and summed, if errors of different places are uncorrelated. With random
    signs v, which `key` draws, its estimate is the mean of (J^T v)(J^T v)^T (Hutchinson's
    estimator).

    Returns:
        (c, c) for each stage, in the order of `stage_features`.
    """
    run = functools.partial(stage_features, component_params, component=component, config=config)

    def measure(pair: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
        x, key = pair[0][None], pair[1]
        zeros = [jnp.zeros_like(feature) for feature in run(x)[1]]
        output, pullback = jax.vjp(lambda added: run(x, perturbations=added)[0], zeros)
        (gradients,) = pullback(jax.random.rademacher(key, output.shape, output.dtype))
        return [jnp.einsum("nhwc,nhwd->cd", g, g) / (g.size / g.shape[-1]) for g in gradients]

    # One image at a time bounds the memory of the activations.
    matrices = jax.lax.map(measure, (x, jax.random.split(key, len(x))))
    return [matrix.mean(0) for matrix in matrices]

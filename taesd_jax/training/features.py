"""Features inside a model, for a student to match a teacher's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..config import AutoencoderTinyConfig
from ..convolutions import narrow
from ..functional import Params, bind
from ..layers import Half, changes_size, layers_of
from ..modules import apply_layer


def stage_features(
    half_params: Params, x: jax.Array, *, half: Half, config: AutoencoderTinyConfig, remat: bool
) -> tuple[jax.Array, list[jax.Array]]:
    """Return what a half gives, and what leaves each of its stages, in the input's dtype.

    Args:
        half_params: `params["encoder"]` or `params["decoder"]`.
        x: Images (n, h, w, 3) or latents (n, h, w, z), in the dtype to compute in.
        half: Which half.
        config: Architecture.
        remat: Recompute blocks in the backward pass.
    """
    module, dtype = bind(half_params, half, config), x.dtype
    found: list[jax.Array] = []
    if half == "encoder":
        x = (x + 1) / 2
    layers = layers_of(half, config)
    for i, layer in enumerate(layers):
        x = x if layer.kind == "activation" else narrow(x, dtype)
        if i and (changes_size(layer) or i == len(layers) - 1):
            found.append(x)
        if remat and layer.kind == "block":
            x = jax.checkpoint(lambda x, layer=layer: apply_layer(module, layer, x))(x)
        else:
            x = apply_layer(module, layer, x)
    return narrow(x * 2 - 1 if half == "decoder" else x, dtype), found


def feature_distance(features: list[jax.Array], wanted: list[jax.Array]) -> jax.Array:
    """Return the mean squared error of features, each stage's in units of its variance.

    The channels of a stage are not weighed apart: what varies little matters little to the picture.
    Stages of other widths in the two models are left out; one at least must be as wide in both.
    """
    parts = []
    for a, b in zip(features, wanted, strict=True):
        if a.shape == b.shape:
            a, b = a.astype(jnp.float32), b.astype(jnp.float32)
            parts.append(jnp.mean((a - b) ** 2) / (jnp.var(b) + 1e-12))
    return jnp.mean(jnp.stack(parts))

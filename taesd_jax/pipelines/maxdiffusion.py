"""A tiny autoencoder in the pipelines of MaxDiffusion, and in diffusers' Flax pipelines."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ..autoencoder import AutoencoderTiny
from .latent_check import check_latents
from .linen import FlaxAutoencoderTiny

__all__ = ["replace_vae", "with_base"]


def replace_vae(
    pipeline: Any,
    params: MutableMapping[str, Any] | None,
    vae: AutoencoderTiny | str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    weights_dtype: DTypeLike | None = None,
) -> None:
    """Give a pipeline a tiny autoencoder in the place of its VAE, and its params to `params`.

    This sets `pipeline.vae` and `params["vae"]`, or FLUX.1's `params["flux_vae"]`, or Z-Image's
    `pipeline.vae_params` with a shift of 0. The new params lie on the mesh of those they replace,
    or on the pipeline's where there are none. Call it before states are made and before anything
    is compiled.

    Args:
        pipeline: Stable Diffusion, SDXL, FLUX.1 or Z-Image of MaxDiffusion, or one of diffusers'
            Flax pipelines. FLUX.2 klein gets its VAE in its script, see docs/pipelines.md.
        params: The dict that came with the pipeline, changed in place; None for Z-Image.
        vae: A model, or a name or path for `AutoencoderTiny.from_pretrained`.
        dtype: Dtype of the computation and of the images; by default that of the model given, or
            else of the replaced VAE.
        weights_dtype: Dtype of the params; that of the replaced ones by default.

    Raises:
        TypeError: It is another pipeline, or `params` cannot be changed.
        ValueError: The pipeline's latents are not those of this model.
    """
    _check_pipeline(pipeline, params)
    if not isinstance(vae, AutoencoderTiny):
        vae = AutoencoderTiny.from_pretrained(vae)
    if pipeline.vae is not None:
        _check_latents(pipeline.vae.config, vae)
    key = "flux_vae" if hasattr(pipeline, "flux") else "vae"
    own_params = hasattr(pipeline, "vae_params")
    replaced = jax.tree.leaves(pipeline.vae_params if own_params else (params or {}).get(key))
    if weights_dtype is None:
        weights_dtype = replaced[0].dtype if replaced else jnp.float32
    dtypes = (dtype, vae.dtype, getattr(pipeline.vae, "dtype", None))
    dtype = next((each for each in dtypes if each is not None), None)
    options = {"dtype": dtype, "weights_dtype": weights_dtype}
    module, vae_params = FlaxAutoencoderTiny.from_model(vae, **options)
    if (mesh := _mesh(pipeline, replaced)) is not None:
        vae_params = jax.device_put(vae_params, NamedSharding(mesh, PartitionSpec()))
    pipeline.vae = with_base(module, _model_base(pipeline))
    if own_params:
        pipeline.vae_params, pipeline.vae_shift_factor = vae_params, 0.0
        pipeline._jitted_decoder = None  # it holds the shift that it was compiled with
    elif params is not None:
        params[key] = vae_params


def with_base(vae: FlaxAutoencoderTiny, base: type) -> FlaxAutoencoderTiny:
    """Return a module that is an instance of `base` too, for pipelines that check.

    Pipelines of diffusers and MaxDiffusion save only modules of their `FlaxModelMixin`, and take
    only such in `from_pretrained(vae=)`.

    Args:
        vae: The module.
        base: `diffusers.FlaxModelMixin` or `maxdiffusion.FlaxModelMixin`.
    """
    # A saved pipeline lists the class of its VAE, and is opened if the library has that name.
    kind = type("FlaxAutoencoderKL", (type(vae), base), {"__module__": base.__module__})
    module = object.__new__(kind)
    module.__dict__.update(vae.__dict__)
    return module


def _check_pipeline(pipeline: Any, params: Any) -> None:
    name = type(pipeline).__name__
    if hasattr(pipeline, "_jitted_vae_decode"):
        raise TypeError(
            f"{name} takes the params of its VAE with each call: make module and params in its "
            f"script, as docs/pipelines.md shows"
        )
    if not hasattr(pipeline, "vae"):
        raise TypeError(f"pipeline must have a vae, got {name}")
    if isinstance(pipeline.vae, nnx.Module):
        raise TypeError(f"the VAE of {name} is an NNX module; only Linen VAEs can be replaced")
    if not hasattr(pipeline, "vae_params") and not isinstance(params, MutableMapping):
        raise TypeError(
            f"params must be the dict that came with the pipeline, got {type(params).__name__}"
        )


def _check_latents(theirs: Any, vae: AutoencoderTiny) -> None:
    scale = theirs.scaling_factor
    if scale == 1:  # theirs is a tiny model's, which may tell the full VAE's scale
        scale = getattr(theirs, "raw_latent_scale", None)
    factor = 2 ** (len(theirs.block_out_channels) - 1)
    check_latents(vae.config, channels=theirs.latent_channels, spatial_factor=factor, scale=scale)


def _mesh(pipeline: Any, replaced: list[Any]) -> Any:
    """Return the mesh that params lie on, the pipeline's where there were none, or None."""
    if not replaced:
        return getattr(pipeline, "mesh", None)
    sharding = getattr(replaced[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def _model_base(pipeline: Any) -> type:
    """Return `FlaxModelMixin` of the library of a pipeline."""
    for kind in type(pipeline).__mro__:
        library = sys.modules.get(kind.__module__.partition(".")[0])
        if isinstance(base := getattr(library, "FlaxModelMixin", None), type):
            return base
    return object

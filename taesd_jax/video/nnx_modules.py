"""Flax NNX modules that stand in for the VAEs of MaxDiffusion's Wan and LTX-2 pipelines."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from ..model.layers import Component, Params
from ..model.validation import check_dtype
from ..outputs import DecoderOutput, select_output
from .autoencoder import AutoencoderTinyVideo
from .config import VideoConfig
from .functional import decode_video, encode_video


class LatentPoint(NamedTuple):
    """Stands in for the distribution that a full VAE's encoder gives; a tiny one gives its mode.

    Attributes:
        latents: (n, t, h, w, z).
    """

    latents: jax.Array

    def mode(self) -> jax.Array:
        """Return the latents."""
        return self.latents

    def sample(self, key: jax.Array) -> jax.Array:
        """Return the latents, whatever the key."""
        return self.latents


class VideoEncoderOutput(NamedTuple):
    """The result of `encode`.

    Attributes:
        latent_dist: Of it `mode()` are the latents.
    """

    latent_dist: LatentPoint


class LTX2Config(NamedTuple):
    """What LTX-2 pipelines read of their VAE's config."""

    spatial_compression_ratio: int
    temporal_compression_ratio: int
    scaling_factor: float = 1.0
    timestep_conditioning: bool = False


class _Component(nnx.Module):
    """Holds the params of a component, so that pipelines can walk, split and place them."""

    def __init__(self, vae: AutoencoderTinyVideo, component: Component):
        if component not in vae.params:
            raise ValueError(f"expected a model with encoder and decoder, without {component}")
        self.params = nnx.data(jax.tree.map(nnx.Param, vae.params[component]))
        self.options = (vae.config, vae.chunk)

    def decode(self, latents: jax.Array, dtype: Any) -> jax.Array:
        config, chunk = self.options
        x = _to_channels_last(latents, config.latent_channels)
        params = {"decoder": self._pure()}
        return jnp.clip(decode_video(params, x, config=config, chunk=chunk, dtype=dtype), -1, 1)

    def encode(self, video: jax.Array, dtype: Any) -> jax.Array:
        config, chunk = self.options
        x = _to_channels_last(video, 3)
        params = {"encoder": self._pure()}
        return encode_video(params, x, config=config, chunk=chunk, dtype=dtype)

    def _pure(self) -> Params:
        return jax.tree.map(
            lambda param: param[...], self.params, is_leaf=lambda x: isinstance(x, nnx.Variable)
        )


class WanVAE(nnx.Module):
    """Decode and encode as MaxDiffusion's `AutoencoderKLWan` does, with a tiny model.

    Put it in the place of `pipeline.vae`. Its statistics are mean 0 and standard deviation 1, so
    what pipelines do to latents around it leaves them as the diffusion model sees them. It keeps no
    cache: the argument is taken and left alone.

    Args:
        vae: With encoder and decoder, of latents of Wan: "taew2_1".
        dtype: Dtype of the computation and of the results.

    Raises:
        ValueError: A component is not loaded, or the model has other factors than Wan 2.1's.
    """

    def __init__(self, vae: AutoencoderTinyVideo, *, dtype: DTypeLike = jnp.float32):
        # Pipelines compute the factors from temperal_downsample.
        _check_factors(vae.config, (4, 8), "taew2_1")
        self.encoder = _Component(vae, "encoder")
        self.decoder = _Component(vae, "decoder")
        self.dtype = jnp.dtype(check_dtype(dtype))
        self.z_dim = vae.config.latent_channels
        self.temperal_downsample = tuple(pool > 1 for pool in vae.config.time_pool[::-1])
        self.latents_mean = (0.0,) * self.z_dim
        self.latents_std = (1.0,) * self.z_dim

    def decode(
        self, latents: jax.Array, feat_cache: Any = None, return_dict: bool = True
    ) -> DecoderOutput:
        """Decode latents (n, t, h, w, z) or (n, z, t, h, w).

        Returns:
            `.sample`, or a 1-tuple: (n, frames, height, width, 3), clipped to [-1, 1].
        """
        return select_output(DecoderOutput(self.decoder.decode(latents, self.dtype)), return_dict)

    def encode(
        self, video: jax.Array, feat_cache: Any = None, return_dict: bool = True
    ) -> VideoEncoderOutput:
        """Encode videos (n, frames, height, width, 3) or (n, 3, frames, height, width) in [-1, 1].

        Returns:
            `.latent_dist`, or a 1-tuple; its `mode()` is (n, t, h, w, z).
        """
        latents = LatentPoint(self.encoder.encode(video, self.dtype))
        return select_output(VideoEncoderOutput(latents), return_dict)


class LTX2VAE(nnx.Module):
    """Decode and encode as MaxDiffusion's `LTX2VideoAutoencoderKL` does, with a tiny model.

    Put it in the place of `pipeline.vae`.

    Args:
        vae: With encoder and decoder, of latents of LTX-2: "taeltx_2" or "taeltx2_3".
        dtype: Dtype of the computation and of the results.
        latents_mean: (z,), the replaced VAE's `latents_mean.value`; pipelines with a latent
            upsampler need it, since that sees latents of the full VAE. By default these are as the
            diffusion model sees them.
        latents_std: (z,), likewise.

    Raises:
        ValueError: A component is not loaded, the model has other factors than LTX-2's, or the
            statistics have another shape.
    """

    def __init__(
        self,
        vae: AutoencoderTinyVideo,
        *,
        dtype: DTypeLike = jnp.float32,
        latents_mean: ArrayLike | None = None,
        latents_std: ArrayLike | None = None,
    ):
        _check_factors(vae.config, (8, 32), "taeltx_2")
        self.encoder = _Component(vae, "encoder")
        self.decoder = _Component(vae, "decoder")
        self.dtype = jnp.dtype(check_dtype(dtype))
        self.config = LTX2Config(vae.config.spatial_factor, vae.config.time_factor)
        self.spatial_compression_ratio = self.config.spatial_compression_ratio
        self.temporal_compression_ratio = self.config.temporal_compression_ratio
        self.use_slicing = self.use_tiling = False  # pipelines set them
        shape = (vae.config.latent_channels,)
        self.latents_mean = nnx.Variable(_statistics("latents_mean", latents_mean, shape, 0))
        self.latents_std = nnx.Variable(_statistics("latents_std", latents_std, shape, 1))

    def decode(
        self, latents: jax.Array, temb: Any = None, return_dict: bool = True
    ) -> DecoderOutput:
        """Decode latents (n, t, h, w, z); of them the statistics are taken back.

        Returns:
            `.sample`, or a 1-tuple: (n, frames, height, width, 3), clipped to [-1, 1].
        """
        mean, std = self._statistics(latents)
        sample = self.decoder.decode((latents - mean) / std, self.dtype)
        return select_output(DecoderOutput(sample), return_dict)

    def encode(self, video: jax.Array, return_dict: bool = True) -> VideoEncoderOutput:
        """Encode videos (n, frames, height, width, 3) or (n, 3, frames, height, width) in [-1, 1].

        Returns:
            `.latent_dist`, or a 1-tuple; its `mode()` is (n, t, h, w, z), with the statistics.
        """
        latents = self.encoder.encode(video, self.dtype)
        mean, std = self._statistics(latents)
        return select_output(VideoEncoderOutput(LatentPoint(latents * std + mean)), return_dict)

    def _statistics(self, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, std = self.latents_mean[...], self.latents_std[...]
        shape = (1, 1, 1, 1, -1)
        return mean.astype(latents.dtype).reshape(shape), std.astype(latents.dtype).reshape(shape)


def _check_factors(config: VideoConfig, expected: tuple[int, int], name: str) -> None:
    got = (config.time_factor, config.spatial_factor)
    if got != expected:
        raise ValueError(
            f"expected a model of {expected[0]} frames and {expected[1]} pixels a latent, such as "
            f"{name}, got one of {got[0]} and {got[1]}"
        )


def _statistics(
    name: str, values: ArrayLike | None, shape: tuple[int, ...], default: float
) -> jax.Array:
    array = jnp.full(shape, default, jnp.float32) if values is None else jnp.asarray(values)
    if array.shape != shape:
        raise ValueError(f"{name} must be {shape}, got shape {np.shape(array)}")
    return array


def _to_channels_last(x: jax.Array, channels: int) -> jax.Array:
    # Pipelines pass both orders; where both fit, the last axis counts.
    return x if x.shape[-1] == channels else jnp.moveaxis(x, 1, -1)

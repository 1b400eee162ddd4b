"""`WanVAE`: a Flax NNX module that stands in for the Wan VAE of MaxDiffusion's pipelines."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ..model.layers import Params
from ..model.validation import check_dtype
from ..outputs import DecoderOutput, select_output
from .autoencoder import AutoencoderTinyVideo
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


class WanEncoderOutput(NamedTuple):
    """The result of `WanVAE.encode`.

    Attributes:
        latent_dist: Of it `mode()` are the latents.
    """

    latent_dist: LatentPoint


class _Component(nnx.Module):
    """Holds the params of a component, so that pipelines can walk, split and place them."""

    def __init__(self, params: Params):
        self.params = nnx.data(jax.tree.map(nnx.Param, params))

    def pure(self) -> Params:
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
        ValueError: A component is not loaded.
    """

    def __init__(self, vae: AutoencoderTinyVideo, *, dtype: DTypeLike = jnp.float32):
        if missing := {"encoder", "decoder"} - set(vae.params):
            raise ValueError(f"expected a model with encoder and decoder, without {missing.pop()}")
        config = vae.config
        self.encoder = _Component(vae.params["encoder"])
        self.decoder = _Component(vae.params["decoder"])
        self.tiny_config = config
        self.chunk = vae.chunk
        self.dtype = jnp.dtype(check_dtype(dtype))
        self.z_dim = config.latent_channels
        self.temperal_downsample = tuple(pool > 1 for pool in config.time_pool[::-1])
        self.latents_mean = (0.0,) * self.z_dim
        self.latents_std = (1.0,) * self.z_dim

    def decode(
        self, latents: jax.Array, feat_cache: Any = None, return_dict: bool = True
    ) -> DecoderOutput:
        """Decode latents (n, t, h, w, z) or (n, z, t, h, w).

        Returns:
            `.sample`, or a 1-tuple: (n, frames, height, width, 3), clipped to [-1, 1].
        """
        sample = decode_video(
            {"decoder": self.decoder.pure()},
            _to_channels_last(latents, self.z_dim),
            config=self.tiny_config,
            chunk=self.chunk,
            dtype=self.dtype,
        )
        return select_output(DecoderOutput(jnp.clip(sample, -1, 1)), return_dict)

    def encode(
        self, video: jax.Array, feat_cache: Any = None, return_dict: bool = True
    ) -> WanEncoderOutput:
        """Encode videos (n, frames, height, width, 3) or (n, 3, frames, height, width) in [-1, 1].

        Returns:
            `.latent_dist`, or a 1-tuple; its `mode()` is (n, t, h, w, z).
        """
        latents = encode_video(
            {"encoder": self.encoder.pure()},
            _to_channels_last(video, 3),
            config=self.tiny_config,
            chunk=self.chunk,
            dtype=self.dtype,
        )
        return select_output(WanEncoderOutput(LatentPoint(latents)), return_dict)


def _to_channels_last(x: jax.Array, channels: int) -> jax.Array:
    # Where both could be, as MaxDiffusion does.
    return x if x.shape[-1] == channels else jnp.moveaxis(x, 1, -1)

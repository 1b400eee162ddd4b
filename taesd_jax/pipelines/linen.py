"""A tiny autoencoder behind the calls that Linen pipelines make: diffusers' Flax, MaxDiffusion."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..model.functional import Params, init
from ..outputs import DecoderOutput


class PipelineConfig(dict):
    """A config that pipelines read by attribute or by item."""

    def __getattr__(self, name: str) -> Any:
        """Return an item."""
        if name in self:
            return self[name]
        raise AttributeError(f"the config has no {name!r}")


class LatentDistribution(NamedTuple):
    """What an encoder without randomness gives in place of a distribution.

    Attributes:
        mean: Latents (n, h / 8, w / 8, z): NHWC, as pipelines expect at this place.
    """

    mean: jax.Array

    def sample(self, key: jax.Array | None = None) -> jax.Array:
        """Return the latents."""
        return self.mean

    def mode(self) -> jax.Array:
        """Return the latents."""
        return self.mean


class EncoderOutput(NamedTuple):
    """What `encode` returns.

    Attributes:
        latent_dist: Holds the latents.
    """

    latent_dist: LatentDistribution


class FlaxAutoencoderTiny:
    """A stand-in for `FlaxAutoencoderKL` in a pipeline.

    As any Linen module it holds no params: they are passed to `apply`. Images are NCHW in [-1, 1],
    latents NCHW, or NHWC where only that fits or `layout` says so; results are NCHW images and NHWC
    latents. The scaling factor is 1 and the shift 0, so a pipeline's own scaling changes nothing.

    Args:
        config: Architecture.
        dtype: Dtype of the computation and of the results; the input's by default.
        layout: Of the latents that `decode` gets; without it NCHW wherever that fits.

    Attributes:
        config: What pipelines read, by attribute or item; all are attributes of the module too.
    """

    def __init__(
        self,
        config: AutoencoderTinyConfig,
        *,
        dtype: DTypeLike | None = None,
        layout: Literal["NCHW", "NHWC"] | None = None,
    ):
        if layout not in (None, "NCHW", "NHWC"):
            raise ValueError(f"layout must be 'NCHW' or 'NHWC', got {layout!r}")
        self.architecture, self.dtype, self.layout = config, dtype, layout
        stages = len(config.decoder_block_out_channels)
        self.config = PipelineConfig(
            config.to_dict(),
            scaling_factor=1.0,
            shift_factor=0.0,
            # Pipelines take the spatial factor to be 2 to the number of these, less one.
            block_out_channels=config.decoder_block_out_channels[::-1],
            sample_size=64 * 2 ** (stages - 1),
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: DTypeLike | None = None,
        layout: Literal["NCHW", "NHWC"] | None = None,
        **options: Any,
    ) -> tuple[FlaxAutoencoderTiny, Params]:
        """Load a checkpoint; returns the module and its params.

        Args:
            name_or_path: As for `AutoencoderTiny.from_pretrained`.
            dtype: Dtype of the computation and of the results; the input's by default.
            layout: See the class.
            options: The other arguments of `AutoencoderTiny.from_pretrained`.

        Raises:
            CheckpointNotFoundError: There is nothing under that name.
            CheckpointError: What is there is not a model of this family.
        """
        vae = AutoencoderTiny.from_pretrained(name_or_path, **options)
        return cls(vae.config, dtype=dtype, layout=layout), vae.params

    def save_pretrained(self, path: str | os.PathLike[str], params: Params) -> None:
        """Write params to a folder in the diffusers layout, opened by `from_pretrained`.

        Raises:
            CheckpointError: That layout cannot express this model.
        """
        AutoencoderTiny(params, self.architecture).save_pretrained(path)

    def init_weights(self, rng: jax.Array, eval_only: bool = False) -> Params:
        """Draw random params, or with eval_only return their shapes and dtypes."""

        def make(key: jax.Array) -> Params:
            return init(key, config=self.architecture)

        return jax.eval_shape(make, rng) if eval_only else make(rng)

    def apply(
        self,
        variables: Any,
        *args: Any,
        method: Any = None,
        rngs: Any = None,
        mutable: Any = False,
        **options: Any,
    ) -> Any:
        """Call `encode` or `decode` with params, as Linen does.

        Args:
            variables: {"params": params}.
            args: Of the method.
            method: `vae.encode` or `vae.decode`, or its name.
            rngs: Not used.
            mutable: Not used.
            options: Of the method, by name.

        Raises:
            ValueError: The method is another one.
        """
        name = method if isinstance(method, str) else getattr(method, "__name__", None)
        if name not in ("encode", "decode"):
            raise ValueError(f"method must be vae.encode or vae.decode, got {method!r}")
        vae = AutoencoderTiny(variables["params"], self.architecture, dtype=self.dtype)
        return getattr(self, name)(*args, vae=vae, **options)

    def encode(
        self,
        sample: jax.Array,
        deterministic: bool = True,
        return_dict: bool = True,
        *,
        vae: AutoencoderTiny | None = None,
    ) -> Any:
        """Encode images (n, 3, h, w); returns `.latent_dist`. Called through `apply`."""
        latents = _bound(vae).encode(_transposed(sample)).latents
        distribution = LatentDistribution(latents)
        return EncoderOutput(distribution) if return_dict else (distribution,)

    def decode(
        self,
        latents: jax.Array,
        deterministic: bool = True,
        return_dict: bool = True,
        *,
        vae: AutoencoderTiny | None = None,
    ) -> Any:
        """Decode latents; returns `.sample`, images (n, 3, 8h, 8w). Called through `apply`.

        Raises:
            ValueError: The latents are of another model, packed, or not of `layout`.
        """
        channels = self.architecture.latent_channels
        last = latents.ndim == 4 and latents.shape[1] != channels == latents.shape[-1]
        if self.layout == "NCHW" or (self.layout is None and not last):
            latents = _transposed(latents)
        image = _bound(vae).decode(latents).sample
        image = jnp.transpose(image, (0, 3, 1, 2))
        return DecoderOutput(image) if return_dict else (image,)

    def __getattr__(self, name: str) -> Any:
        if name != "config" and name in self.config:
            return self.config[name]
        raise AttributeError(f"FlaxAutoencoderTiny has no attribute {name!r}")


def _transposed(x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim != 4:
        raise ValueError(f"expected an NCHW array of rank 4, got shape {x.shape}")
    return jnp.transpose(x, (0, 2, 3, 1))


def _bound(vae: AutoencoderTiny | None) -> AutoencoderTiny:
    if vae is None:
        raise ValueError("call it through vae.apply({'params': params}, ..., method=vae.decode)")
    return vae

"""A tiny autoencoder with the interface of a Linen VAE, for diffusers' Flax and MaxDiffusion."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..model.functional import Params, init
from ..model.inputs import as_jax
from ..outputs import DecoderOutput


class PipelineConfig(dict):
    """Hold a config that pipelines read by attribute or by item."""

    def __getattr__(self, name: str) -> Any:
        """Return an item."""
        if name in self:
            return self[name]
        raise AttributeError(f"the config has no {name!r}")


class LatentDistribution(NamedTuple):
    """Stand in for the latent distribution of a VAE; a tiny encoder is deterministic.

    Attributes:
        mean: Latents (n, h / 8, w / 8, z), NHWC as pipelines expect here.
    """

    mean: jax.Array

    def sample(self, key: jax.Array | None = None) -> jax.Array:
        """Return the latents."""
        return self.mean

    def mode(self) -> jax.Array:
        """Return the latents."""
        return self.mean


class EncoderOutput(NamedTuple):
    """Hold the result of `encode`.

    Attributes:
        latent_dist: The latents, as a distribution.
    """

    latent_dist: LatentDistribution


class FlaxAutoencoderTiny:
    """Replace `FlaxAutoencoderKL` in a pipeline.

    Like any Linen module it holds no params; they are passed to `apply`. `encode` maps NCHW images
    in [-1, 1] to NHWC latents, `decode` maps NCHW or NHWC latents to NCHW images, as pipelines
    expect. The scaling factor is 1 and the shift 0, so a pipeline's own scaling has no effect.

    Args:
        config: Architecture.
        dtype: Dtype of the computation and of the results; the input's by default.
        data_format: "NCHW" or "NHWC", of the latents that `decode` takes; by default NCHW unless
            only NHWC fits the number of channels.

    Attributes:
        config: The config that pipelines read; its items are attributes of the module too.

    Raises:
        ValueError: The data format is another.
    """

    def __init__(
        self,
        config: AutoencoderTinyConfig,
        *,
        dtype: DTypeLike | None = None,
        data_format: Literal["NCHW", "NHWC"] | None = None,
    ):
        if data_format not in (None, "NCHW", "NHWC"):
            raise ValueError(f"data_format must be 'NCHW' or 'NHWC', got {data_format!r}")
        self.architecture, self.dtype, self.data_format = config, dtype, data_format
        stages = len(config.decoder_block_out_channels)
        self.config = PipelineConfig(
            config.to_dict(),
            scaling_factor=1.0,
            shift_factor=0.0,
            # Pipelines compute the spatial factor as 2 ** (len(block_out_channels) - 1).
            block_out_channels=config.decoder_block_out_channels[::-1],
            sample_size=64 * 2 ** (stages - 1),
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: DTypeLike | None = None,
        data_format: Literal["NCHW", "NHWC"] | None = None,
        **options: Any,
    ) -> tuple[FlaxAutoencoderTiny, Params]:
        """Load a checkpoint and return the module and its params.

        `dtype` and `data_format` are those of the class; the rest, and the errors, are those of
        `AutoencoderTiny.from_pretrained`.
        """
        vae = AutoencoderTiny.from_pretrained(name_or_path, **options)
        return cls(vae.config, dtype=dtype, data_format=data_format), vae.params

    def save_pretrained(self, path: str | os.PathLike[str], params: Params) -> None:
        """Write params to a folder in the diffusers format, opened by `from_pretrained`.

        Raises:
            CheckpointError: That format cannot express this model.
        """
        AutoencoderTiny(params, self.architecture).save_pretrained(path)

    def init_weights(self, rng: jax.Array, eval_only: bool = False) -> Params:
        """Draw random params, or with `eval_only` return their shapes and dtypes."""

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
        """Call `method`, `vae.encode` or `vae.decode` or its name, with {"params": params}.

        `rngs` and `mutable` are Linen's, and ignored. Another method raises ValueError.
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
        """Encode images (n, 3, h, w) and return `.latent_dist`; called through `apply`."""
        latents = _check_bound(vae).encode(_to_nhwc(sample)).latents
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
        """Decode latents and return `.sample`, images (n, 3, 8h, 8w); called through `apply`.

        Raises:
            ValueError: The latents are those of another model, packed, or not in `data_format`.
        """
        channels = self.architecture.latent_channels
        only_nhwc = latents.ndim == 4 and latents.shape[1] != channels == latents.shape[-1]
        if self.data_format == "NCHW" or (self.data_format is None and not only_nhwc):
            latents = _to_nhwc(latents)
        image = _check_bound(vae).decode(latents).sample
        image = jnp.transpose(image, (0, 3, 1, 2))
        return DecoderOutput(image) if return_dict else (image,)

    def __getattr__(self, name: str) -> Any:
        if name != "config" and name in self.config:
            return self.config[name]
        raise AttributeError(f"FlaxAutoencoderTiny has no attribute {name!r}")


def _to_nhwc(x: ArrayLike) -> jax.Array:
    x = as_jax(x)
    if x.ndim != 4:
        raise ValueError(f"expected an NCHW array of rank 4, got shape {x.shape}")
    return jnp.transpose(x, (0, 2, 3, 1))


def _check_bound(vae: AutoencoderTiny | None) -> AutoencoderTiny:
    if vae is None:
        raise ValueError("call it through vae.apply({'params': params}, ..., method=vae.decode)")
    return vae

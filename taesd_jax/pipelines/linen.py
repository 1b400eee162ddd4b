"""A tiny autoencoder with the interface of a Linen VAE, for diffusers' Flax and MaxDiffusion."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from .. import weights
from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..model.functional import init
from ..model.inputs import as_jax
from ..model.layers import COMPONENTS, Component, Params
from ..model.validation import check_dtype
from ..outputs import DecoderOutput, EncoderOutput, LatentDistribution
from ..weights.files import DIFFUSERS_FILE
from .linen_config import LinenConfig

DataFormat = Literal["NCHW", "NHWC"]


class FlaxAutoencoderTiny:
    """Replace `FlaxAutoencoderKL` in a pipeline.

    Like any Linen module it holds no params; they are passed to `apply`. `encode` maps NCHW images
    in [-1, 1] to NHWC latents, `decode` maps NCHW or NHWC latents to NCHW images, as pipelines
    expect. The scaling factor is 1 and the shift 0, so a pipeline's own scaling has no effect.

    Params are {"encoder": ..., "decoder": ...}, one tree wherever they come from: `init_weights`,
    `init`, `from_pretrained`. Linen's methods have no scale, so there are no thumbnails.

    Args:
        config: Architecture.
        dtype: Dtype of the computation and of the results; the input's by default.
        weights_dtype: Dtype of the params.
        components: Those that there are params of.
        data_format: "NCHW" or "NHWC", of the latents that `decode` takes; by default NCHW unless
            only NHWC fits the number of channels.

    Attributes:
        config: The config that pipelines read; its items are attributes of the module too.

    Raises:
        TypeError: A dtype is not floating point.
        ValueError: The data format or a component is another.
    """

    def __init__(
        self,
        config: AutoencoderTinyConfig,
        *,
        dtype: DTypeLike | None = None,
        weights_dtype: DTypeLike = jnp.float32,
        components: Sequence[Component] = COMPONENTS,
        data_format: DataFormat | None = None,
    ):
        if data_format not in (None, "NCHW", "NHWC"):
            raise ValueError(f"data_format must be 'NCHW' or 'NHWC', got {data_format!r}")
        self.architecture, self.data_format = config, data_format
        self.dtype = None if dtype is None else jnp.dtype(check_dtype(dtype))
        self.weights_dtype = jnp.dtype(check_dtype(weights_dtype))
        self.config = LinenConfig.of(config, components)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: DTypeLike | None = None,
        weights_dtype: DTypeLike = jnp.float32,
        data_format: DataFormat | None = None,
        from_pt: bool = False,
        use_safetensors: bool = False,
        **options: Any,
    ) -> tuple[FlaxAutoencoderTiny, Params]:
        """Load a checkpoint and return the module and its params.

        `dtype`, `weights_dtype` and `data_format` are those of the class. `from_pt` and
        `use_safetensors` are ignored: the format is read from the file. The rest, and the errors,
        are those of `AutoencoderTiny.from_pretrained`.
        """
        vae = AutoencoderTiny.from_pretrained(name_or_path, **options)
        return cls.from_model(
            vae, dtype=dtype, weights_dtype=weights_dtype, data_format=data_format
        )

    @classmethod
    def from_model(cls, vae: AutoencoderTiny, **options: Any) -> tuple[FlaxAutoencoderTiny, Params]:
        """Return the module and the params of a model; options are those of the class."""
        components: list[Component] = [name for name in COMPONENTS if name in vae.params]
        params = {name: vae.params[name] for name in components}
        module = cls(vae.config, components=components, **options)
        return module, jax.tree.map(lambda p: as_jax(p).astype(module.weights_dtype), params)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        dtype: DTypeLike | None = None,
        weights_dtype: DTypeLike = jnp.float32,
        data_format: DataFormat | None = None,
        from_pt: bool = False,
    ) -> FlaxAutoencoderTiny:
        """Build the module of a config: `vae.config`, one of `to_json_string`, or diffusers'.

        `dtype`, `weights_dtype` and `data_format` are those of the class; no config holds them.

        Raises:
            ValueError: It is the config of another class, or a bad one.
        """
        architecture, components = LinenConfig.read(config)
        options: dict[str, Any] = {"dtype": dtype, "weights_dtype": weights_dtype}
        return cls(architecture, components=components, data_format=data_format, **options)

    def to_json_string(self) -> str:
        """Return the config as JSON, from which `from_config` makes the module again."""
        return json.dumps(self.config, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, path: str | os.PathLike[str], params: Params) -> None:
        """Write params to a folder, opened by `from_pretrained`.

        It is in the diffusers format where that has this model, else holds a file of our own.

        Raises:
            CheckpointError: The params are not those of the config, or the folder holds another
                model that would still be read.
        """
        if self.architecture.fits_diffusers and set(COMPONENTS) <= params.keys():
            weights.save(path, params, self.architecture, format="diffusers")
            return
        if (other := Path(path) / DIFFUSERS_FILE).exists():
            raise CheckpointError(f"{other} would be read instead of this model: remove it first")
        weights.save(Path(path) / "model.safetensors", params, self.architecture, format="flax")

    def init_weights(self, rng: jax.Array, eval_only: bool = False) -> Params:
        """Draw random params, or with `eval_only` return their shapes and dtypes."""

        def make(key: jax.Array) -> Params:
            params = init(key, config=self.architecture, dtype=self.weights_dtype)
            return {name: params[name] for name in self.components}

        return jax.eval_shape(make, rng) if eval_only else make(rng)

    def init(self, rngs: jax.Array | Mapping[str, jax.Array], *inputs: Any) -> dict[str, Params]:
        """Draw random params as Linen does, {"params": params}; the inputs change nothing."""
        return {"params": self.init_weights(rngs["params"] if isinstance(rngs, Mapping) else rngs)}

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

    @property
    def components(self) -> tuple[Component, ...]:
        """The components that there are params of."""
        return tuple(self.config["_components"])

    def __repr__(self) -> str:
        """Name the variant, components and dtype."""
        name = self.architecture.variant or f"{self.architecture.latent_channels} latent channels"
        return f"FlaxAutoencoderTiny({name}, {' and '.join(self.components)}, dtype={self.dtype})"

    def __getattr__(self, name: str) -> Any:
        if name != "config" and name in self.config:
            return self.config[name]
        raise AttributeError(f"FlaxAutoencoderTiny has no attribute {name!r}")


def _to_nhwc(x: ArrayLike) -> Any:
    x = x if isinstance(x, np.ndarray) else jnp.asarray(x)
    if x.ndim != 4:
        raise ValueError(f"expected an NCHW array of rank 4, got shape {x.shape}")
    return x.transpose(0, 2, 3, 1)


def _check_bound(vae: AutoencoderTiny | None) -> AutoencoderTiny:
    if vae is None:
        raise ValueError("call it through vae.apply({'params': params}, ..., method=vae.decode)")
    return vae

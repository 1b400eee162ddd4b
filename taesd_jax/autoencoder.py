"""`AutoencoderTiny`: diffusers' interface over the pure functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from . import latents as forms
from . import weights
from .config import AutoencoderTinyConfig
from .model.functional import Computation, init
from .model.layers import COMPONENTS, Component, Params
from .model.validation import check_count, check_dtype, check_model
from .outputs import AutoencoderTinyOutput, DecoderOutput, select_output
from .strategies.compilation import CompiledComponent, compile_planned
from .strategies.planner import Execution, Limits, plan, run_planned
from .strategies.run import select_params
from .strategies.strategy import Full, Tiles
from .surface import ModuleSurface


@jax.tree_util.register_pytree_with_keys_class
class AutoencoderTiny(ModuleSurface):
    """Hold params and config of a tiny autoencoder; a pytree whose leaves are the params.

    Args:
        params: {"encoder": ..., "decoder": ..., "thumbnails": ...}; one component is enough.
        config: Architecture.
        dtype: Dtype of the computation and of the results; the input's by default.
        memory_budget: Bytes that a call may use beside params, input and result; by default an
            eighth of the device's memory, and no limit inside jit. encode and decode choose the
            fastest strategy within it.

    >>> vae = AutoencoderTiny.init(jax.random.key(0), AutoencoderTinyConfig())
    >>> vae.decode(jnp.zeros((1, 8, 8, 4))).sample.shape
    (1, 64, 64, 3)
    """

    def __init__(
        self,
        params: Params,
        config: AutoencoderTinyConfig,
        *,
        dtype: DTypeLike | None = None,
        memory_budget: int | None = None,
    ):
        self.params, self.config = check_model(params, config)
        self.dtype = None if dtype is None else jnp.dtype(check_dtype(dtype))
        self.memory_budget = Limits(memory_budget).budget
        self._batch_size: int | None = None
        self._tile_size: int | None = None
        self._remat = False

    @classmethod
    def init(
        cls,
        key: jax.Array,
        config: AutoencoderTinyConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> AutoencoderTiny:
        """Make a model with random parameters."""
        return cls(init(key, config=config, dtype=param_dtype), config, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike | None = None,
        thumbnails: str | os.PathLike[str] | None = None,
        **options: Unpack[weights.LoadOptions],
    ) -> AutoencoderTiny:
        """Load a checkpoint onto the default device.

        Args:
            name_or_path: As for `taesd_jax.load`: file, PATH of a pair, folder, hub id or variant.
            dtype: Dtype of the computation and of the results; the input's by default.
            param_dtype: Dtype of the params; as stored by default.
            thumbnails: File of thumbnails, as in `add_thumbnails`; by default the bundled one.
            options: The options of `taesd_jax.load`: subfolder, revision, cache_dir,
                local_files_only, token.

        Raises:
            CheckpointNotFoundError: There is nothing under that name.
            CheckpointError: It is not a model of this family, or `thumbnails` has none for it.
        """
        param_dtype = None if param_dtype is None else check_dtype(param_dtype)
        params, config, _ = weights.load(name_or_path, **options)
        params = weights.add_thumbnails(params, thumbnails)
        params = jax.tree.map(lambda p: p.astype(param_dtype or p.dtype), params)
        return cls(jax.device_put(params), config, dtype=dtype)

    def save_pretrained(
        self, path: str | os.PathLike[str], *, format: weights.Format = "diffusers"
    ) -> None:
        """Write encoder and decoder to disk; format and errors are those of `taesd_jax.save`."""
        weights.save(path, self.params, self.config, format=format)

    def encode(self, image: ArrayLike, return_dict: bool = True) -> AutoencoderTinyOutput:
        """Encode images (n, h, w, 3) in [-1, 1]; returns `.latents`, or a 1-tuple.

        It raises ValueError unless the encoder is loaded, and what `taesd_jax.encode` raises.
        """
        return select_output(AutoencoderTinyOutput(self._run("encoder", image)), return_dict)

    def decode(
        self,
        latent: ArrayLike,
        return_dict: bool = True,
        *,
        generator: Any = None,
        scale: float = 1,
        out_dtype: DTypeLike | None = None,
    ) -> DecoderOutput:
        """Decode latents (n, h, w, z) in model space; returns `.sample`, or a 1-tuple.

        Options and errors are those of `taesd_jax.decode`; without a decoder it raises ValueError.
        `generator` is diffusers', and ignored.
        """
        sample = self._run("decoder", latent, scale=scale, out_dtype=out_dtype)
        return select_output(DecoderOutput(sample), return_dict)

    def __call__(self, image: ArrayLike, return_dict: bool = True) -> DecoderOutput:
        """Encode, round the latents to 8 bits, and decode; returns `.sample`, or a 1-tuple."""
        latents = forms.quantize_latents(self.encode(image).latents, config=self.config)
        return self.decode(latents, return_dict=return_dict)

    def scale_latents(self, latent: ArrayLike) -> jax.Array:
        """Map latents to [0, 1], as `taesd_jax.latents.scale_latents` does."""
        return forms.scale_latents(latent, config=self.config)

    def unscale_latents(self, latent: ArrayLike) -> jax.Array:
        """Undo `scale_latents`; divide 8-bit values by 255 first."""
        return forms.unscale_latents(latent, config=self.config)

    def enable_slicing(self, batch_size: int = 1) -> None:
        """Encode and decode batches on one device in slices of `batch_size` images."""
        self._batch_size = check_count("batch_size", batch_size)

    def disable_slicing(self) -> None:
        """Encode and decode as many images at a time as memory allows."""
        self._batch_size = None

    def enable_tiling(self, size: int = Tiles.size) -> None:
        """Encode and decode in exact tiles of `size` latents, also images that would fit whole."""
        self._tile_size = check_count("size", size)

    def disable_tiling(self) -> None:
        """Choose the strategy by size and memory."""
        self._tile_size = None

    def strategy(self, component: Component, x: Any) -> Execution:
        """Return how `encode` or `decode` would run; equal for the same object and shape.

        Inside jit this is for JAX's default device. A program that is lowered for another platform
        follows that platform's rules. The errors are those of `encode` and `decode`.

        Args:
            component: "encoder" or "decoder".
            x: Its input, or an array, tracer or `jax.ShapeDtypeStruct` of that shape and dtype.
        """
        return plan(self.params, x, *self._computation(component, x))

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass instead of storing its activations.

        Images then run in full, except in the tiles of `enable_tiling`.
        """
        self._remat = True

    def disable_gradient_checkpointing(self) -> None:
        """Store all activations for the backward pass."""
        self._remat = False

    def compile(
        self,
        shape: Sequence[int],
        *,
        component: Component = "decoder",
        dtype: DTypeLike = jnp.float32,
        scale: float = 1,
        out_dtype: DTypeLike | None = None,
    ) -> CompiledComponent:
        """Compile a component ahead of time; call the result with this model and an input.

        `shape` and `dtype` are the input's; other options and errors are those of `decode`.

        >>> vae = AutoencoderTiny.init(jax.random.key(0), AutoencoderTinyConfig())
        >>> decode = vae.compile((1, 8, 8, 4))
        >>> decode(vae, jnp.zeros((1, 8, 8, 4))).shape
        (1, 64, 64, 3)
        """
        x = jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(check_dtype(dtype)))
        computation, limits = self._computation(component, x, scale=scale, out_dtype=out_dtype)
        return compile_planned(self, x, computation, limits)

    def check_loaded(self, component: Component) -> None:
        """Raise ValueError, with the file to load, unless a component is loaded."""
        if component not in self.params:
            source = self.config.name_or_path
            origin = f"; {source} has no {component}" if source else ""
            advice = weights.missing_file(source, component)
            raise ValueError(f"the {component} is not loaded{origin}; {advice}")

    def _computation(
        self, component: Component, x: Any, *, scale: float = 1, out_dtype: Any = None
    ) -> tuple[Computation, Limits]:
        options: dict[str, Any] = {"dtype": self.dtype, "out_dtype": out_dtype, "scale": scale}
        computation = Computation.of(component, x, config=self.config, **options)
        self.check_loaded(component)
        full = Full(remat=True) if self._remat else None
        only = Tiles(self._tile_size) if self._tile_size else full
        return computation, Limits(self.memory_budget, self._batch_size, only)

    def _run(self, component: Component, x: Any, **options: Any) -> jax.Array:
        computation, limits = self._computation(component, x, **options)
        return run_planned(select_params(self.params, computation), x, computation, limits)

    def __hash__(self) -> int:
        """Raise TypeError: results would be stale once the params of a static argument change."""
        advice = "jax.jit a function that takes it, lambda vae, x: vae.decode(x)"
        raise TypeError(f"a model is unhashable: {advice}")

    def __repr__(self) -> str:
        """Name the variant, components and dtype."""
        name = self.config.variant or f"{self.config.latent_channels} latent channels"
        components = " and ".join(key for key in COMPONENTS if key in self.params)
        return f"AutoencoderTiny({name}, {components}, dtype={self.dtype})"

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """Return the params as the only child, and everything static."""
        static = dict(vars(self))
        params = static.pop("params")
        return ((jax.tree_util.GetAttrKey("params"), params),), tuple(static.items())

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> AutoencoderTiny:
        """Rebuild a model from the results of `tree_flatten_with_keys`."""
        vae = object.__new__(cls)
        vars(vae).update(static, params=children[0])
        return vae

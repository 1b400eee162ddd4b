"""`AutoencoderTiny`: diffusers' interface over the pure functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from . import latents as forms
from . import weights
from .config import AutoencoderTinyConfig
from .model.functional import Computation, init
from .model.layers import COMPONENTS, Component, Params
from .model.thumbnails import check_scale
from .model.validation import check_count, check_dtype, check_input
from .outputs import AutoencoderTinyOutput, DecoderOutput, select_output
from .strategies.planner import Execution, Limits, plan, run_planned
from .strategies.run import run, select_params, with_engine
from .strategies.strategy import Tiles


@jax.tree_util.register_pytree_with_keys_class
class AutoencoderTiny:
    """Hold params and config of a tiny autoencoder; a pytree whose leaves are the params.

    Args:
        params: {"encoder": ..., "decoder": ..., "thumbnails": ...}; any may be absent.
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
        self.params = params
        self.config = config
        self.dtype = None if dtype is None else jnp.dtype(check_dtype(dtype))
        self.memory_budget = memory_budget
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
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        thumbnails: str | os.PathLike[str] | None = None,
    ) -> AutoencoderTiny:
        """Load a checkpoint onto the default device, as `taesd_jax.load` does.

        Args:
            name_or_path: File, PATH of a pair, folder, hub id or variant name.
            dtype: Dtype of the computation and of the results; the input's by default.
            param_dtype: Dtype of the params; as stored by default.
            subfolder: Folder inside a folder or hub repository.
            revision: Branch, tag or commit of a hub repository.
            cache_dir: Folder of the hub's cache.
            local_files_only: Use only hub files that are already in the cache.
            token: Hub access token.
            thumbnails: File of thumbnails, as in `add_thumbnails`; by default the bundled one.

        Raises:
            CheckpointNotFoundError: There is nothing under that name.
            CheckpointError: It is not a model of this family, or `thumbnails` has none for it.
        """
        if param_dtype is not None:
            param_dtype = check_dtype(param_dtype)
        params, config, _ = weights.load(
            name_or_path,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        params = weights.add_thumbnails(params, thumbnails)
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype=param_dtype), params)
        return cls(params, config, dtype=dtype)

    def save_pretrained(
        self, path: str | os.PathLike[str], *, format: weights.Format = "diffusers"
    ) -> None:
        """Write encoder and decoder to disk, as `taesd_jax.save` does.

        Raises:
            CheckpointError: The format cannot express this model.
        """
        weights.save(path, self.params, self.config, format=format)

    def encode(self, image: ArrayLike, return_dict: bool = True) -> AutoencoderTinyOutput:
        """Encode images (n, h, w, 3) in [-1, 1]; returns `.latents`, or a 1-tuple.

        Raises:
            ValueError: The encoder is not loaded, or the image has another shape.
            TypeError: The image is not floating point.
        """
        return select_output(AutoencoderTinyOutput(self._run("encoder", image)), return_dict)

    def decode(
        self,
        latent: ArrayLike,
        return_dict: bool = True,
        *,
        scale: float = 1,
        out_dtype: DTypeLike | None = None,
    ) -> DecoderOutput:
        """Decode latents (n, h, w, z) in model space; returns `.sample`, or a 1-tuple.

        Args:
            latent: Latents.
            return_dict: False for the 1-tuple.
            scale: As in `taesd_jax.decode`.
            out_dtype: As in `taesd_jax.decode`.

        Raises:
            ValueError: The decoder or its thumbnails are not loaded, or the latent has another
                shape.
            TypeError: The latent is not floating point.
        """
        sample = self._run("decoder", latent, scale=scale, out_dtype=out_dtype)
        return select_output(DecoderOutput(sample), return_dict)

    def __call__(self, image: ArrayLike, return_dict: bool = True) -> DecoderOutput:
        """Encode, round the latents to 8 bits, and decode; returns `.sample`, or a 1-tuple."""
        scaled = self.scale_latents(self.encode(image).latents)
        stored = jnp.round(scaled * 255) / 255
        return self.decode(self.unscale_latents(stored), return_dict=return_dict)

    def scale_latents(self, latent: jax.Array) -> jax.Array:
        """Map latents to [0, 1], as `taesd_jax.latents.scale_latents` does."""
        return forms.scale_latents(latent, config=self.config)

    def unscale_latents(self, latent: jax.Array) -> jax.Array:
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
        self._tile_size = int(Tiles(size).size)

    def disable_tiling(self) -> None:
        """Choose the strategy by size and memory."""
        self._tile_size = None

    def strategy(self, component: Component, x: Any) -> Execution:
        """Return how `encode` or `decode` would run; equal for the same object and shape.

        Inside jit this is for JAX's default device. A program that is lowered for another platform
        follows that platform's rules.

        Args:
            component: "encoder" or "decoder".
            x: Its input, or an array, tracer or `jax.ShapeDtypeStruct` of that shape and dtype.

        Raises:
            ValueError: There is no such component, or x has another shape.
            TypeError: x is not floating point, or `memory_budget` is not a number of bytes.
        """
        return plan(self.params, x, *self._computation(component, x))

    def _computation(
        self, component: Component, x: Any, *, scale: float = 1, out_dtype: Any = None
    ) -> tuple[Computation, Limits]:
        check_input(component, x, self.config)
        computation = Computation.of(
            component,
            x,
            config=self.config,
            dtype=self.dtype,
            out_dtype=out_dtype,
            scale=check_scale(scale, self.config),
            remat=self._remat,
        )
        tiles = Tiles(self._tile_size) if self._tile_size else None
        return computation, Limits(self.memory_budget, self._batch_size, tiles)

    def _run(self, component: Component, x: Any, **options: Any) -> jax.Array:
        self.check_loaded(component)
        computation, limits = self._computation(component, x, **options)
        return run_planned(select_params(self.params, computation), x, computation, limits)

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
    ) -> jax.stages.Compiled:
        """Compile a component ahead of time; call the result with this model and an input.

        Args:
            shape: Shape of the input, (n, h, w, z) or (n, h, w, 3).
            component: "decoder" or "encoder".
            dtype: Dtype of the input.
            scale: As in `decode`.
            out_dtype: As in `decode`.

        Raises:
            ValueError: The component is not loaded, or its input cannot have this shape.

        >>> vae = AutoencoderTiny.init(jax.random.key(0), AutoencoderTinyConfig())
        >>> decode = vae.compile((1, 8, 8, 4))
        >>> decode(vae, jnp.zeros((1, 8, 8, 4))).shape
        (1, 64, 64, 3)
        """
        if component == "encoder" and scale != 1:
            raise ValueError(f"only decoders have a scale, got {scale} for the encoder")
        x = jax.ShapeDtypeStruct(tuple(shape), check_dtype(dtype))
        computation, limits = self._computation(component, x, scale=scale, out_dtype=out_dtype)
        self.check_loaded(component)
        execution = plan(self.params, x, computation, limits)
        computation = with_engine(self.params, x, computation, execution.strategy)

        def run_component(vae: AutoencoderTiny, x: jax.Array) -> jax.Array:
            params = select_params(vae.params, computation)
            return run(params, x, computation, execution.strategy, execution.batch_size)

        options = computation.engine and computation.engine.compiler_options
        return jax.jit(run_component).lower(self, x).compile(compiler_options=options)

    def check_loaded(self, component: Component) -> None:
        """Raise ValueError, with the file to load, unless a component is loaded."""
        if component not in self.params:
            source = self.config.name_or_path
            origin = f"; {source} has no {component}" if source else ""
            advice = weights.missing_file(source, component)
            raise ValueError(f"the {component} is not loaded{origin}; {advice}")

    def __repr__(self) -> str:
        """Name the variant, components and dtype."""
        name = self.config.variant or f"{self.config.latent_channels} latent channels"
        components = " and ".join(key for key in COMPONENTS if key in self.params)
        return f"AutoencoderTiny({name}, {components}, dtype={self.dtype})"

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """Return the params as the only child, and everything static."""
        key = jax.tree_util.GetAttrKey("params")
        static = (self.config, self.dtype, self.memory_budget)
        return ((key, self.params),), (*static, self._batch_size, self._tile_size, self._remat)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> AutoencoderTiny:
        """Rebuild a model from the results of `tree_flatten_with_keys`."""
        vae = object.__new__(cls)
        (vae.params,) = children
        vae.config, vae.dtype, vae.memory_budget, *rest = static
        vae._batch_size, vae._tile_size, vae._remat = rest
        return vae

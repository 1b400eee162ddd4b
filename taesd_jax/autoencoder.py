"""`AutoencoderTiny`: diffusers' surface over the pure functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from . import weights
from .config import AutoencoderTinyConfig
from .model.functional import Computation, Params, init
from .model.layers import COMPONENTS, Component
from .model.thumbnails import check_scale
from .model.validation import check_count, check_dtype, check_image, check_latent
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .strategies.planner import Execution, Limits, plan, run_planned
from .strategies.run import run, select_params
from .strategies.strategy import Tiles


@jax.tree_util.register_pytree_with_keys_class
class AutoencoderTiny:
    """Hold params and config of a tiny autoencoder; a pytree whose leaves are the params.

    Args:
        params: {"encoder": ..., "decoder": ..., "heads": ...}; any may be absent.
        config: Architecture.
        dtype: Dtype of the computation and of the results; the input's by default.
        memory_budget: Bytes that a call may take beside params, input and result; by default an
            eighth of all the memory of the device. Within it encode and decode choose the fastest
            strategy. Inside jit there is no default: memory is then the whole program's affair.

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
        heads: str | os.PathLike[str] | None = None,
    ) -> AutoencoderTiny:
        """Load a checkpoint onto the default device; `taesd_jax.load` says what can be loaded.

        Args:
            name_or_path: File, PATH of a pair, folder, hub id or variant name.
            dtype: Dtype of the computation and of the results; the input's by default.
            param_dtype: Dtype to hold the parameters in; as stored by default.
            subfolder: Folder inside a folder or hub repository.
            revision: Branch, tag or commit of a hub repository.
            cache_dir: Where hub files are kept.
            local_files_only: Use only hub files that are already in the cache.
            token: Hub access token.
            heads: File of heads for small pictures, see `add_heads`; by default the shipped one.

        Raises:
            CheckpointNotFoundError: There is nothing under that name.
            CheckpointError: What is there is not a model of this family, or the file of heads has
                none for it.
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
        params = weights.add_heads(params, heads)
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype=param_dtype), params)
        return cls(params, config, dtype=dtype)

    def save_pretrained(
        self, path: str | os.PathLike[str], *, layout: weights.Layout = "diffusers"
    ) -> None:
        """Write the params to disk, all but the heads; `taesd_jax.save` describes the layouts.

        Raises:
            CheckpointError: The layout cannot express this model.
        """
        weights.save(path, self.params, self.config, layout=layout)

    @overload
    def encode(
        self, image: ArrayLike, return_dict: Literal[True] = True
    ) -> AutoencoderTinyOutput: ...
    @overload
    def encode(self, image: ArrayLike, return_dict: bool) -> tuple[jax.Array]: ...
    def encode(self, image: ArrayLike, return_dict: bool = True) -> Any:
        """Encode images (n, h, w, 3) in [-1, 1]; returns `.latents`, or a 1-tuple.

        Raises:
            ValueError: The encoder is not loaded, or the image is not as described.
            TypeError: The image is not floating point.
        """
        latents = self._run("encoder", image)
        return AutoencoderTinyOutput(latents) if return_dict else (latents,)

    @overload
    def decode(
        self,
        latent: ArrayLike,
        return_dict: Literal[True] = True,
        *,
        scale: float = 1,
        out_dtype: DTypeLike | None = None,
    ) -> DecoderOutput: ...
    @overload
    def decode(
        self,
        latent: ArrayLike,
        return_dict: bool,
        *,
        scale: float = 1,
        out_dtype: DTypeLike | None = None,
    ) -> tuple[jax.Array]: ...
    def decode(
        self,
        latent: ArrayLike,
        return_dict: bool = True,
        *,
        scale: float = 1,
        out_dtype: DTypeLike | None = None,
    ) -> Any:
        """Decode latents (n, h, w, z) in model space; returns `.sample`, or a 1-tuple.

        Args:
            latent: The latents.
            return_dict: False for the 1-tuple.
            scale: 1, or that of thumbnails, as for `taesd_jax.decode`.
            out_dtype: "uint8" for images of 8 bits, as for `taesd_jax.decode`.

        Raises:
            ValueError: The decoder is not loaded, has no thumbnails of that scale, or the latent is
                not as described.
            TypeError: The latent is not floating point.
        """
        sample = self._run("decoder", latent, scale=scale, out_dtype=out_dtype)
        return DecoderOutput(sample) if return_dict else (sample,)

    @overload
    def __call__(self, image: ArrayLike, return_dict: Literal[True] = True) -> DecoderOutput: ...
    @overload
    def __call__(self, image: ArrayLike, return_dict: bool) -> tuple[jax.Array]: ...
    def __call__(self, image: ArrayLike, return_dict: bool = True) -> Any:
        """Encode, store the latents in 8 bits, and decode; returns `.sample`, or a 1-tuple."""
        scaled = self.scale_latents(self.encode(image).latents)
        stored = jnp.round(scaled * 255) / 255
        return self.decode(self.unscale_latents(stored), return_dict=return_dict)

    def scale_latents(self, latent: jax.Array) -> jax.Array:
        """Map latents to [0, 1] for 8-bit storage, clipping at +-`latent_magnitude`.

        Raises:
            TypeError: The latent is not floating point.
        """
        check_dtype(latent.dtype)
        c = self.config
        return jnp.clip(latent / (2 * c.latent_magnitude) + c.latent_shift, 0, 1)

    def unscale_latents(self, latent: jax.Array) -> jax.Array:
        """Map [0, 1] back to latents; divide 8-bit values by 255 before.

        Raises:
            TypeError: The values are not floating point.
        """
        check_dtype(latent.dtype)
        return (latent - self.config.latent_shift) * (2 * self.config.latent_magnitude)

    def enable_slicing(self, batch_size: int = 1) -> None:
        """Encode and decode batches on one device `batch_size` images at a time."""
        self._batch_size = check_count("batch_size", batch_size)

    def disable_slicing(self) -> None:
        """Encode and decode as many images at a time as memory allows."""
        self._batch_size = None

    def enable_tiling(self, size: int = Tiles.size) -> None:
        """Encode and decode in exact tiles of `size` latents, whatever the image's size."""
        self._tile_size = int(Tiles(size).size)

    def disable_tiling(self) -> None:
        """Choose by size and memory, as `strategy` says."""
        self._tile_size = None

    def strategy(self, component: Component, x: Any) -> Execution:
        """Say how a component would run; the same object and shape give the same answer.

        Inside jit the answer is that for JAX's default device. A program that is lowered for
        another platform runs by that platform's rules.

        Args:
            component: "encoder" or "decoder".
            x: Its input, or an array, tracer or `jax.ShapeDtypeStruct` of that shape.

        Raises:
            ValueError: There is no such component, or x is not its input.
            TypeError: x is not its input, or `memory_budget` is not a number of bytes.
        """
        return plan(self.params, x, self._computation(component, x), self._limits())

    def _computation(
        self, component: Component, x: Any, *, scale: float = 1, out_dtype: Any = None
    ) -> Computation:
        if component not in COMPONENTS:
            raise ValueError(f"component must be one of {COMPONENTS}, got {component!r}")
        (check_image if component == "encoder" else check_latent)(x, self.config)
        scale = check_scale(scale, self.config)
        options: dict[str, Any] = {"config": self.config, "dtype": self.dtype}
        options |= {"out_dtype": out_dtype, "remat": self._remat}
        return Computation.of(component, x, scale=scale, **options)

    def _limits(self) -> Limits:
        tiles = Tiles(self._tile_size) if self._tile_size else None
        return Limits(self.memory_budget, self._batch_size, tiles)

    def _run(self, component: Component, x: Any, **options: Any) -> jax.Array:
        self.require(component)
        computation = self._computation(component, x, **options)
        return run_planned(select_params(self.params, computation), x, computation, self._limits())

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
            shape: Of the input, (n, h, w, z) or (n, h, w, 3).
            component: "decoder" or "encoder".
            dtype: Of the input.
            scale: As for `decode`.
            out_dtype: As for `decode`.

        Raises:
            ValueError: There is no such component, or the shape is not of its input.

        >>> vae = AutoencoderTiny.init(jax.random.key(0), AutoencoderTinyConfig())
        >>> decode = vae.compile((1, 8, 8, 4))
        >>> decode(vae, jnp.zeros((1, 8, 8, 4))).shape
        (1, 64, 64, 3)
        """
        if component == "encoder" and scale != 1:
            raise ValueError(f"scale is of decoders, got {scale} for the encoder")
        x = jax.ShapeDtypeStruct(tuple(shape), check_dtype(dtype))
        computation = self._computation(component, x, scale=scale, out_dtype=out_dtype)
        self.require(component)
        execution = plan(self.params, x, computation, self._limits())

        def run_component(vae: AutoencoderTiny, x: jax.Array) -> jax.Array:
            params = select_params(vae.params, computation)
            return run(params, x, computation, execution.strategy, execution.batch_size)

        return jax.jit(run_component).lower(self, x).compile()

    def require(self, component: Component) -> None:
        """Raise ValueError, naming the missing file, unless the component is loaded."""
        if component not in self.params:
            source = self.config.name_or_path
            origin = f"; {source} has no {component}" if source else ""
            raise ValueError(
                f"the {component} is not loaded{origin}; {weights.missing_file(source, component)}"
            )

    def __repr__(self) -> str:
        """Name the variant, components and dtype."""
        name = self.config.variant or f"{self.config.latent_channels} latent channels"
        components = " and ".join(key for key in COMPONENTS if key in self.params)
        return f"AutoencoderTiny({name}, {components}, dtype={self.dtype})"

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """Split into params and everything static."""
        key = jax.tree_util.GetAttrKey("params")
        static = (self.config, self.dtype, self.memory_budget)
        return ((key, self.params),), (*static, self._batch_size, self._tile_size, self._remat)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> AutoencoderTiny:
        """Rebuild from what `tree_flatten_with_keys` returned."""
        vae = object.__new__(cls)
        (vae.params,) = children
        vae.config, vae.dtype, vae.memory_budget, *rest = static
        vae._batch_size, vae._tile_size, vae._remat = rest
        return vae

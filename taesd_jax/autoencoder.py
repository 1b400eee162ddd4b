"""`AutoencoderTiny`: diffusers' surface over the pure functions."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from . import weights
from .config import AutoencoderTinyConfig
from .model.functional import Params, init, is_sharded
from .model.layers import HALVES, Half
from .model.thumbnails import decode_reduced
from .model.validation import check_dtype, check_image, check_latent
from .outputs import AutoencoderTinyOutput, DecoderOutput
from .strategies.batching import check_chunk
from .strategies.planner import Way, choose_way_for, run_way
from .strategies.tiling import check_tile
from .strategies.windows import TILE


@jax.tree_util.register_pytree_with_keys_class
class AutoencoderTiny:
    """Hold params and config of a tiny autoencoder; a pytree whose leaves are the params.

    Args:
        params: {"encoder": ..., "decoder": ..., "heads": ...}; any may be absent.
        config: Architecture.
        dtype: Dtype of the computation and of the results; the input's by default.
        memory_budget: Bytes that a call may take beside params, input and result; by default half
            of what the device has free. Within it encode and decode choose the fastest way.

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
        self._chunk: int | None = None
        self._tile: int | None = None
        self._remat = False
        self._ways: dict[Any, tuple[Way, float]] = {}

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
        self.require("encoder")
        check_image(image, self.config)
        latents = self._run("encoder", image)
        return AutoencoderTinyOutput(latents) if return_dict else (latents,)

    @overload
    def decode(
        self, latent: ArrayLike, return_dict: Literal[True] = True, *, scale: float = 1
    ) -> DecoderOutput: ...
    @overload
    def decode(
        self, latent: ArrayLike, return_dict: bool, *, scale: float = 1
    ) -> tuple[jax.Array]: ...
    def decode(self, latent: ArrayLike, return_dict: bool = True, *, scale: float = 1) -> Any:
        """Decode latents (n, h, w, z) in model space; returns `.sample`, or a 1-tuple.

        Args:
            latent: The latents.
            return_dict: False for the 1-tuple.
            scale: 1, or the size of the small images of `decode_reduced`, which always runs whole.

        Raises:
            ValueError: The decoder is not loaded, has no head for that scale, or the latent is not
                as described.
            TypeError: The latent is not floating point.
        """
        self.require("decoder")
        check_latent(latent, self.config)
        if scale == 1:
            sample = self._run("decoder", latent)
        else:
            sample = decode_reduced(
                self.params, latent, config=self.config, scale=scale, dtype=self.dtype
            )
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

    def enable_slicing(self, chunk: int = 1) -> None:
        """Encode and decode batches on one device `chunk` images at a time."""
        self._chunk = check_chunk(chunk)

    def disable_slicing(self) -> None:
        """Encode and decode batches whole."""
        self._chunk = None

    def enable_tiling(self, tile: int = TILE) -> None:
        """Encode and decode in exact tiles of that many latents, whatever the size."""
        self._tile = check_tile(tile)

    def disable_tiling(self) -> None:
        """Choose by size and memory, as `way` says."""
        self._tile = None

    def way(self, half: Half, x: Any) -> Way:
        """Say how a half would be run: whole, streamed or tiled.

        Args:
            half: "encoder" or "decoder".
            x: Its input, or an array, tracer or `jax.ShapeDtypeStruct` of that shape.

        Raises:
            ValueError: There is no such half, or x is not its input.
            TypeError: x is not its input, or `memory_budget` is not a number of bytes.
        """
        if half not in HALVES:
            raise ValueError(f"half must be one of {HALVES}, got {half!r}")
        (check_image if half == "encoder" else check_latent)(x, self.config)
        return self._way(half, x)

    def _way(self, half: Half, x: Any) -> Way:
        options = (self.dtype, self.memory_budget, self._chunk, self._tile, self._remat)
        key = (half, x.shape, x.dtype, isinstance(x, Tracer), is_sharded(x), self.config, options)
        way, until = self._ways.get(key, (None, 0.0))
        if way is None or until < time.monotonic():
            # Free memory changes, but is not worth a look at each call.
            way = choose_way_for(half, self.params, x, self.config, *options)
            self._ways[key] = way, time.monotonic() + 1
        return way

    def _run(self, half: Half, x: Any) -> jax.Array:
        options: dict[str, Any] = {"config": self.config, "dtype": self.dtype}
        way = self._way(half, x)
        return run_way(half, self.params, x, way=way, remat=self._remat, **options)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass instead of storing its activations.

        Images then run whole, but for tiles that `enable_tiling` insists on.
        """
        self._remat = True

    def disable_gradient_checkpointing(self) -> None:
        """Store all activations for the backward pass."""
        self._remat = False

    def compile(
        self,
        shape: Sequence[int],
        *,
        half: Half = "decoder",
        dtype: DTypeLike = jnp.float32,
        scale: float = 1,
    ) -> jax.stages.Compiled:
        """Compile a half ahead of time; call the result with this model and an input.

        Args:
            shape: Of the input, (n, h, w, z) or (n, h, w, 3).
            half: "decoder" or "encoder".
            dtype: Of the input.
            scale: As for `decode`.

        Raises:
            ValueError: There is no such half, or the shape is not of its input.

        >>> vae = AutoencoderTiny.init(jax.random.key(0), AutoencoderTinyConfig())
        >>> decode = vae.compile((1, 8, 8, 4))
        >>> decode(vae, jnp.zeros((1, 8, 8, 4))).shape
        (1, 64, 64, 3)
        """
        if half not in HALVES:
            raise ValueError(f"half must be one of {HALVES}, got {half!r}")

        def run(vae: AutoencoderTiny, x: jax.Array) -> jax.Array:
            if half == "encoder":
                return vae.encode(x).latents
            return vae.decode(x, scale=scale).sample

        if half == "encoder" and scale != 1:
            raise ValueError(f"scale is of decoders, got {scale} for the encoder")
        x = jax.ShapeDtypeStruct(tuple(shape), check_dtype(dtype))
        return jax.jit(run).lower(self, x).compile()

    def require(self, half: Half) -> None:
        """Raise ValueError, naming the missing file, unless the half is loaded."""
        if half not in self.params:
            source = self.config.name_or_path
            origin = f"; {source} has no {half}" if source else ""
            raise ValueError(
                f"the {half} is not loaded{origin}; {weights.missing_file(source, half)}"
            )

    def __repr__(self) -> str:
        """Name the variant, halves and dtype."""
        name = self.config.variant or f"{self.config.latent_channels} latent channels"
        halves = " and ".join(half for half in HALVES if half in self.params)
        return f"AutoencoderTiny({name}, {halves}, dtype={self.dtype})"

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """Split into params and everything static."""
        key = jax.tree_util.GetAttrKey("params")
        static = (self.config, self.dtype, self.memory_budget)
        return ((key, self.params),), (*static, self._chunk, self._tile, self._remat)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> AutoencoderTiny:
        """Rebuild from what `tree_flatten_with_keys` returned."""
        vae = object.__new__(cls)
        (vae.params,) = children
        vae.config, vae.dtype, vae.memory_budget, vae._chunk, vae._tile, vae._remat = static
        vae._ways = {}
        return vae

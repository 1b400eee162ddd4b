"""`AutoencoderTinyVideo`: diffusers' interface over the pure functions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..model.layers import COMPONENTS, Component, Params
from ..model.validation import check_count, check_dtype
from ..outputs import AutoencoderTinyOutput, DecoderOutput, select_output
from .checkpoints import load_video, save_video
from .config import VideoConfig
from .functional import decode_video, encode_video
from .iterators import iter_decode_frames, iter_encode_frames
from .params import init_video


@jax.tree_util.register_pytree_with_keys_class
class AutoencoderTinyVideo:
    """Hold params and config of a tiny video autoencoder; a pytree whose leaves are the params.

    Args:
        params: {"encoder": ..., "decoder": ...}; either may be absent.
        config: Architecture.
        dtype: Dtype of the computation and of the results; the input's by default.
        chunk: Latents encoded or decoded at a time; None for all of them, in memory that grows with
            the length.

    >>> config = VideoConfig(decoder_channels=(8, 8, 8, 8), num_blocks=1)  # quick to compile
    >>> vae = AutoencoderTinyVideo.init(jax.random.key(0), config)
    >>> vae.decode(jnp.zeros((1, 2, 4, 4, 16))).sample.shape
    (1, 5, 32, 32, 3)
    """

    def __init__(
        self,
        params: Params,
        config: VideoConfig,
        *,
        dtype: DTypeLike | None = None,
        chunk: int | None = 1,
    ):
        self.params = params
        self.config = config
        self.dtype = None if dtype is None else jnp.dtype(check_dtype(dtype))
        self.chunk = None if chunk is None else check_count("chunk", chunk)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        config: VideoConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> AutoencoderTinyVideo:
        """Make a model with random parameters."""
        return cls(init_video(key, config=config, dtype=param_dtype), config, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        variant: str | None = None,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike | None = None,
        chunk: int | None = 1,
    ) -> AutoencoderTinyVideo:
        """Load a checkpoint onto the default device, as `taesd_jax.video.load_video` does.

        Args:
            path: A safetensors file of published names.
            variant: A name of `VIDEO_VARIANTS`, needed where file name and shapes leave several.
            dtype: Dtype of the computation and of the results; the input's by default.
            param_dtype: Dtype of the params; as stored by default.
            chunk: Latents encoded or decoded at a time.

        Raises:
            CheckpointNotFoundError: There is no such file.
            CheckpointError: It is not a model of this family, or may be one of several.
            ValueError: There is no such variant.
        """
        if param_dtype is not None:
            param_dtype = check_dtype(param_dtype)
        params, config = load_video(path, variant=variant)
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype=param_dtype), params)
        return cls(params, config, dtype=dtype, chunk=chunk)

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, as `taesd_jax.video.save_video` does.

        Raises:
            CheckpointError: The params do not fit the config.
        """
        return save_video(path, self.params, self.config)

    def encode(self, video: ArrayLike, return_dict: bool = True) -> AutoencoderTinyOutput:
        """Encode videos (n, frames, height, width, 3) in [-1, 1]; returns `.latents`, or a 1-tuple.

        Raises:
            ValueError: The encoder is not loaded, or the video has another shape.
            TypeError: The video is not floating point.
        """
        self._check_loaded("encoder")
        latents = encode_video(
            self.params, video, config=self.config, chunk=self.chunk, dtype=self.dtype
        )
        return select_output(AutoencoderTinyOutput(latents), return_dict)

    def decode(
        self, latents: ArrayLike, return_dict: bool = True, *, out_dtype: DTypeLike | None = None
    ) -> DecoderOutput:
        """Decode latents (n, t, h, w, z); returns `.sample`, or a 1-tuple.

        Args:
            latents: As the diffusion model itself sees them.
            return_dict: False for the 1-tuple.
            out_dtype: As in `taesd_jax.video.decode_video`.

        Raises:
            ValueError: The decoder is not loaded, or the latents have another shape.
            TypeError: The latents are not floating point.
        """
        self._check_loaded("decoder")
        sample = decode_video(
            self.params,
            latents,
            config=self.config,
            chunk=self.chunk,
            dtype=self.dtype,
            out_dtype=out_dtype,
        )
        return select_output(DecoderOutput(sample), return_dict)

    def iter_decode(
        self, latents: ArrayLike, *, start: int = 0, out_dtype: DTypeLike | None = None
    ) -> Iterator[jax.Array]:
        """Decode into frames as they are finished, as `taesd_jax.video.iter_decode_frames` does.

        Raises:
            ValueError: As `decode`, or there is no frame `start`.
            TypeError: As `decode`.
        """
        self._check_loaded("decoder")
        return iter_decode_frames(
            self.params,
            latents,
            config=self.config,
            chunk=self.chunk or np.shape(latents)[1],
            start=start,
            dtype=self.dtype,
            out_dtype=out_dtype,
        )

    def iter_encode(self, frames: Iterable[ArrayLike]) -> Iterator[jax.Array]:
        """Encode frames (n, height, width, 3) as they come, as `iter_encode_frames` does.

        Raises:
            ValueError: As `encode`, or there are no frames.
            TypeError: As `encode`.
        """
        self._check_loaded("encoder")
        return iter_encode_frames(
            self.params, frames, config=self.config, chunk=self.chunk or 1, dtype=self.dtype
        )

    def _check_loaded(self, component: Component) -> None:
        if component not in self.params:
            source = self.config.name_or_path
            origin = f"; {source} has no {component}" if source else ""
            raise ValueError(f"the {component} is not loaded{origin}; load a file that has it")

    def __hash__(self) -> int:
        """Raise TypeError: results would be stale once the params of a static argument change."""
        raise TypeError("a model is unhashable: pass it to jax.jit as an ordinary argument")

    def __repr__(self) -> str:
        """Name the latent channels, factors, components and dtype."""
        components = " and ".join(key for key in COMPONENTS if key in self.params)
        factors = f"{self.config.time_factor}x{self.config.spatial_factor}"
        return (
            f"AutoencoderTinyVideo({self.config.latent_channels} latent channels, {factors}, "
            f"{components}, dtype={self.dtype})"
        )

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """Return the params as the only child, and everything static."""
        key = jax.tree_util.GetAttrKey("params")
        return ((key, self.params),), (self.config, self.dtype, self.chunk)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> AutoencoderTinyVideo:
        """Rebuild a model from the results of `tree_flatten_with_keys`."""
        vae = object.__new__(cls)
        (vae.params,) = children
        vae.config, vae.dtype, vae.chunk = static
        return vae

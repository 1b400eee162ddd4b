"""What `taesd-jax bench --video` runs: one component on one random clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..model.layers import COMPONENTS, Component, Params
from ..video import AutoencoderTinyVideo, VideoConfig, decode_video, encode_video, num_frames
from ..video import num_latents as count_latents
from ..video.params import abstract_params
from ..video.tensors import to_tensors
from .runners import OURS

AT_ONCE = "at once"


class VideoCase(NamedTuple):
    """What is run, with the interface of `runners.Case`.

    Attributes:
        variant: Name of the model; the weights are random, which changes no time.
        config: Its architecture.
        component: "encoder" or "decoder".
        size: Side of the frames.
        frames: Frames of the clip, or for a decoder those that its latents were made of.
        batch: Clips at a time.
        dtype: Dtype of params, input and computation.
        threads: CPU threads, the same for all.
    """

    variant: str
    config: VideoConfig
    component: Component
    size: int
    frames: int
    batch: int
    dtype: str
    threads: int

    @property
    def latents(self) -> int:
        """Latents of the clip."""
        return count_latents(self.frames, config=self.config)

    @property
    def pictures(self) -> int:
        """Frames that are read or come out."""
        decoded = num_frames(self.latents, config=self.config)
        return self.batch * (decoded if self.component == "decoder" else self.frames)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input, channels last."""
        if self.component == "encoder":
            return (self.batch, self.frames, self.size, self.size, 3)
        side = self.size // self.config.spatial_factor
        return (self.batch, self.latents, side, side, self.config.latent_channels)

    @property
    def title(self) -> str:
        """What it is, in words."""
        return (
            f"{self.variant} {self.component}, {self.frames} frames of {self.size}x{self.size}, "
            f"batch {self.batch}, {self.dtype}"
        )

    def draw_input(self) -> np.ndarray:
        """Draw an input, float32."""
        x = np.random.default_rng(0).standard_normal(self.shape)
        return (np.clip(x, -1, 1) if self.component == "encoder" else x).astype(np.float32)

    def step(self) -> tuple[VideoCase, int]:
        """Return the case of one latent, which is all that stands in memory, and their number."""
        return self._replace(frames=self.config.time_factor), self.latents

    def program(self) -> tuple[Any, Params]:
        """Return what is computed, a function of params and input, and the shapes of params."""
        params = {self.component: abstract_params(self.component, self.config)}
        run = decode_video if self.component == "decoder" else encode_video
        return lambda p, x: run(p, x, config=self.config, chunk=1), params

    def is_ours(self, name: str) -> bool:
        """Return whether a runner is of this library."""
        return name in (OURS, AT_ONCE)

    def names(self, peers: list[str], *, strategies: bool) -> list[str]:
        """Name what is run: ours, a latent at a time, and all at once or the peers."""
        return [OURS, AT_ONCE] if strategies else [OURS, *peers]

    def shapes(self) -> Params:
        """Return the shapes of both components' params."""
        return {part: abstract_params(part, self.config) for part in COMPONENTS}

    def model_of_peer(self, params: Params) -> tuple[Any, ...]:
        """Return what a peer gets of the model: its tensors, and whose they are."""
        return to_tensors(params), self.variant, self.component

    def start(self, name: str, params: Params, x: jax.Array) -> Callable[[], jax.Array]:
        """Return a function that starts one of our runners."""
        vae = AutoencoderTinyVideo(params, self.config, chunk=None if name == AT_ONCE else 1)
        if self.component == "decoder":
            return lambda: vae.decode(x).sample
        return lambda: vae.encode(x).latents

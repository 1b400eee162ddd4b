"""Checks of arguments; the messages state what was expected, what came and what to do."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from .advance import State, state_shapes
from .config import VideoConfig


def check_latents(latents: Any, config: VideoConfig) -> None:
    """Raise ValueError or TypeError unless `latents` are floating point (n, t, h, w, z)."""
    _check_config(config)
    hint = "latents are what the diffusion model sees, not 8-bit values"
    _check(latents, "latents", ("n", "t", "h", "w"), config.latent_channels, hint)


def check_video(video: Any, config: VideoConfig) -> None:
    """Raise ValueError or TypeError unless `video` can be encoded."""
    _check_config(config)
    hint = "divide 8-bit values by 127.5 and subtract 1"
    _check(video, "video", ("n", "frames", "height", "width"), 3, hint)
    height, width = video.shape[2:4]
    factor = config.spatial_factor
    if height % factor or width % factor:
        padded = tuple(-(-side // factor) * factor for side in (height, width))
        raise ValueError(
            f"height and width of the video must be multiples of {factor}, got {height} and "
            f"{width}; pad it to {padded[0]} and {padded[1]}, as with jnp.pad(..., mode='edge')"
        )


def check_state(state: State, latents: Any, config: VideoConfig) -> None:
    """Raise ValueError unless `state` is one of a decoder for these latents."""
    n, _, h, w, _ = latents.shape
    expected = state_shapes((n, h, w), config=config)
    got = {name: jnp.shape(leaf) for name, leaf in state.items()}
    if got != expected:
        names = [name for name in {**expected, **got} if expected.get(name) != got.get(name)]
        lines = [f"{name}: expected {expected.get(name)}, got {got.get(name)}" for name in names]
        raise ValueError(
            f"the state does not fit latents {tuple(latents.shape)}; make one with "
            f"init_state(({n}, {h}, {w}), config=config): {'; '.join(lines)}"
        )


def _check_config(config: Any) -> None:
    if not isinstance(config, VideoConfig):
        raise TypeError(f"config must be a VideoConfig, got {type(config).__name__}")


def _check(x: Any, name: str, axes: tuple[str, ...], channels: int, hint: str) -> None:
    expected = f"({', '.join(axes)}, {channels})"
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or not isinstance(dtype, np.dtype):
        kind = f"{type(x).__module__}.{type(x).__name__}"
        raise TypeError(f"{name} must be a JAX or numpy array {expected}, got {kind}")
    if len(shape) != 5 or shape[-1] != channels:
        advice = ""
        if len(shape) == 4 and shape[-1] == channels:
            advice = "; add the batch axis with x[None]"
        elif len(shape) == 5 and shape[1] == channels:
            advice = "; it looks like NCTHW, transpose it with x.transpose(0, 2, 3, 4, 1)"
        elif len(shape) == 5 and shape[2] == channels:
            advice = "; it looks like NTCHW, transpose it with x.transpose(0, 1, 3, 4, 2)"
        raise ValueError(f"{name} must be {expected}, got shape {tuple(shape)}{advice}")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(shape)}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {dtype}; {hint}")

"""Checks of arguments; the messages state what was expected, what came and what to do."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..config import VARIANTS, AutoencoderTinyConfig
from .layers import COMPONENTS


def check_dtype(dtype: DTypeLike) -> str:
    """Return the name of a dtype, or raise TypeError unless it is floating point and supported."""
    name = jnp.dtype(dtype).name
    if name not in ("float32", "bfloat16", "float16", "float64"):
        raise TypeError(f"dtype must be float32, bfloat16, float16 or float64, got {name}")
    return name


def check_out_dtype(dtype: DTypeLike) -> str:
    """Return the name of a dtype for results, also "uint8", or raise TypeError."""
    return "uint8" if jnp.dtype(dtype) == jnp.uint8 else check_dtype(dtype)


def check_input(component: str, x: ArrayLike, config: AutoencoderTinyConfig) -> None:
    """Raise ValueError or TypeError unless x is an input of a component, as `check_image` says."""
    if component not in COMPONENTS:
        raise ValueError(f"component must be one of {COMPONENTS}, got {component!r}")
    (check_image if component == "encoder" else check_latent)(x, config)


def check_image(image: ArrayLike, config: AutoencoderTinyConfig) -> None:
    """Raise ValueError or TypeError unless `image` is floating point (n, h, w, 3)."""
    _check_config(config)
    _check(image, "image", config.in_channels, "divide 8-bit values by 127.5 and subtract 1")


def check_latent(latent: ArrayLike, config: AutoencoderTinyConfig) -> None:
    """Raise ValueError or TypeError unless `latent` is floating point (n, h, w, z)."""
    _check_config(config)
    channels = config.latent_channels
    shape = tuple(getattr(latent, "shape", ()))
    if len(shape) == 4 and shape[-1] != channels:
        likely = [name for name, row in VARIANTS.items() if row.latent_channels == shape[-1]]
        if likely:
            name = config.variant or "this model"
            nchw = " Or is it NCHW?" if shape[1] == channels else ""
            raise ValueError(
                f"latent must have {channels} channels for {name}, got shape {shape}; did you "
                f"mean {' or '.join(likely)}?{nchw}"
            )
    if len(shape) == 3 and shape[-1] == 4 * channels:
        raise ValueError(
            f"latent must be (n, h, w, {channels}), got packed tokens {shape}; unpack them with "
            f"taesd_jax.unpack_latents(tokens, size=(h, w))"
        )
    if len(shape) == 4 and shape[-1] != channels and 4 * channels in (shape[1], shape[-1]):
        nchw = "" if shape[-1] == 4 * channels else ".transpose(0, 2, 3, 1)"
        raise ValueError(
            f"latent must be (n, h, w, {channels}), got patches {shape}; undo that with "
            f"taesd_jax.unpatchify_latents(patches{nchw})"
        )
    hint = "divide 8-bit values by 255 and apply unscale_latents"
    _check(latent, "latent", channels, hint)


def _check_config(config: AutoencoderTinyConfig) -> None:
    if not isinstance(config, AutoencoderTinyConfig):
        raise TypeError(f"config must be an AutoencoderTinyConfig, got {type(config).__name__}")


def _check(x: Any, name: str, channels: int, hint: str) -> None:
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or not isinstance(dtype, np.dtype):
        raise TypeError(
            f"{name} must be a JAX or numpy array (n, h, w, {channels}), got "
            f"{type(x).__module__}.{type(x).__name__}"
        )
    if len(shape) != 4:
        unbatched = len(shape) == 3 and shape[-1] == channels
        advice = "; add the batch axis with x[None]" if unbatched else ""
        raise ValueError(f"{name} must be (n, h, w, {channels}), got shape {tuple(shape)}{advice}")
    if shape[-1] != channels:
        advice = ""
        if shape[1] == channels:
            advice = "; it looks like NCHW, transpose it with x.transpose(0, 2, 3, 1)"
        raise ValueError(f"{name} must be (n, h, w, {channels}), got shape {tuple(shape)}{advice}")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(shape)}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {dtype}; {hint}")


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Return a value as an int, checked to be an integer of at least `least`.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is smaller.
    """
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {expected}, got {value}")
    return int(value)

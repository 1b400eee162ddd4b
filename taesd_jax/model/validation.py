"""Checks of arguments; the messages state what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..config import VARIANTS, AutoencoderTinyConfig
from .layers import COMPONENTS, Component, scales_of, thumbnail_name

_TRANSPOSE = "transpose it with x.transpose(0, 2, 3, 1)"
_ADD_BATCH = "add the batch axis with x.transpose(1, 2, 0)[None]"


def check_dtype(dtype: DTypeLike) -> str:
    """Return the name of a dtype, or raise TypeError unless it is floating point and supported."""
    name = jnp.dtype(dtype).name
    if name not in ("float32", "bfloat16", "float16", "float64"):
        raise TypeError(f"dtype must be float32, bfloat16, float16 or float64, got {name}")
    return name


def check_out_dtype(dtype: DTypeLike) -> str:
    """Return the name of a dtype for results, also "uint8", or raise TypeError."""
    return "uint8" if jnp.dtype(dtype) == jnp.uint8 else check_dtype(dtype)


def check_scale(scale: Any, component: Component, config: AutoencoderTinyConfig) -> float:
    """Return a scale as a float; raise ValueError unless it is 1 or a decoder's `scales_of`."""
    if component == "encoder" and scale != 1:
        raise ValueError(f"only decoders have a scale, got {scale} for the encoder")
    scales = scales_of(config)
    if isinstance(scale, bool) or not isinstance(scale, Real) or scale not in (1, *scales):
        listed = ", ".join(f"1/{thumbnail_name(s)}" for s in scales)
        raise ValueError(f"scale must be 1 or one of ({listed}), got {scale!r}")
    return float(scale)


def check_model(params: Any, config: Any) -> tuple[Any, AutoencoderTinyConfig]:
    """Return params and config, or raise TypeError or ValueError unless they may be a model's."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of components, got {type(params).__name__}")
    if not any(component in params for component in COMPONENTS):
        raise ValueError(f"params must have 'encoder' or 'decoder', got {sorted(params)}")
    _check_config(config)
    return params, config


def check_input(component: str, x: ArrayLike, config: AutoencoderTinyConfig) -> None:
    """Raise ValueError or TypeError unless x is an input of a component, as `check_image` says."""
    if component not in COMPONENTS:
        raise ValueError(f"component must be one of {COMPONENTS}, got {component!r}")
    (check_image if component == "encoder" else check_latent)(x, config)


def check_image(image: ArrayLike, config: AutoencoderTinyConfig) -> None:
    """Raise ValueError or TypeError unless `image` is floating point (n, h, w, 3)."""
    _check_config(config)
    to_float = "divide 8-bit values by 127.5 and subtract 1"
    _check(image, "image", config.in_channels, to_float=to_float)


def check_latent(latent: ArrayLike, config: AutoencoderTinyConfig) -> None:
    """Raise ValueError or TypeError unless `latent` is floating point (n, h, w, z)."""
    _check_config(config)
    shape, z = tuple(getattr(latent, "shape", ())), config.latent_channels
    advice = ""
    if len(shape) == 3 and shape[-1] == 4 * z:
        advice = "unpack tokens with taesd_jax.unpack_latents(tokens, size=(h, w))"
        if shape[0] == z:
            advice = f"if these are tokens, {advice}; if it is one (z, h, w), {_ADD_BATCH}"
    elif len(shape) == 4 and shape[-1] != z:
        advice = "; ".join(_advices(shape[1], shape[-1], z))
    to_float = "divide 8-bit values by 255 and apply unscale_latents"
    _check(latent, "latent", z, to_float=to_float, advice=advice)


def _advices(first: int, last: int, z: int) -> Iterator[str]:
    """Yield what to do with latents whose axes are (n, first, ..., last), last not z."""
    names = _variants_of(last)
    if first == z and (names or last == 4 * z):
        yield f"if it is NCHW, {_TRANSPOSE}"
    elif first == z:
        yield f"it looks like NCHW, {_TRANSPOSE}"
    if names:
        yield f"did you mean {names}?"
    elif last == 4 * z:
        yield "if these are patches: taesd_jax.unpatchify_latents(patches)"
    if first != z and (names := _variants_of(first)):
        yield f"if it is NCHW, did you mean {names}? Then {_TRANSPOSE} too"
    elif first == 4 * z:
        yield "if these are patches: taesd_jax.unpatchify_latents(patches.transpose(0, 2, 3, 1))"


def _variants_of(channels: int) -> str:
    return " or ".join(name for name, row in VARIANTS.items() if row.latent_channels == channels)


def _check_config(config: AutoencoderTinyConfig) -> None:
    if not isinstance(config, AutoencoderTinyConfig):
        raise TypeError(f"config must be an AutoencoderTinyConfig, got {type(config).__name__}")


def _check(x: Any, name: str, channels: int, *, to_float: str, advice: str = "") -> None:
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or not isinstance(dtype, np.dtype):
        raise TypeError(
            f"{name} must be a JAX or numpy array (n, h, w, {channels}), got "
            f"{type(x).__module__}.{type(x).__name__}"
        )
    if len(shape) != 4 or shape[-1] != channels:
        if not advice and len(shape) == 3 and channels in (shape[0], shape[-1]):
            last = shape[-1] == channels
            advice = "add the batch axis with x[None]" if last else _ADD_BATCH
        elif not advice and len(shape) == 4 and shape[1] == channels:
            advice = f"it looks like NCHW, {_TRANSPOSE}"
        expected = f"{name} must be (n, h, w, {channels}), got shape {tuple(shape)}"
        raise ValueError(f"{expected}; {advice}" if advice else expected)
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(shape)}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {dtype}; {to_float}")


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

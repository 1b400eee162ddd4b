"""NumPy inputs: their values are checked, and they are copied before JAX reads them.

Dispatch is asynchronous, so JAX may read the caller's memory after a call has returned. Arrays on a
device cannot change, and to check their values would be to wait for them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..errors import warn
from .layers import Component

# Models are trained on images of [-1, 1]. An image of 8 bits exceeds this unless it is all but
# black.
LARGEST_IMAGE = 8.0
# Latents beyond +-3, of the published models: 3 % at most on photographs, 22 % on a black image
# (taef1); of Stable Diffusion's full VAEs 38 % or more. Other VAEs' latents are too alike to tell.
LARGE_LATENT = 3.0
LARGE_SHARE = 0.3


def copy_native(x: np.ndarray) -> np.ndarray:
    """Return a copy in this machine's byte order, which JAX does not look at."""
    return x.astype(x.dtype.newbyteorder("="))


def as_jax(x: ArrayLike) -> jax.Array:
    """Return x as a JAX array; a NumPy array is copied."""
    return jax.device_put(copy_native(x)) if isinstance(x, np.ndarray) else jnp.asarray(x)


def check_values(x: Any, component: Component) -> None:
    """Check the range of x if it is a NumPy array; NaN and infinity pass.

    Raises:
        ValueError: Images are far outside [-1, 1], or float64 values beyond float32.
    """
    if not isinstance(x, np.ndarray) or not x.size:
        return
    x = x.astype(np.float32) if x.dtype.itemsize == 2 else x  # NumPy is slow in half precision
    low, high = float(x.min()), float(x.max())
    largest = max(-low, high)
    if component == "encoder" and LARGEST_IMAGE < largest < np.inf:
        advice = _scaling(low, high)
        raise ValueError(f"image must be in [-1, 1], got {low:g} to {high:g}; {advice}")
    held = jax.dtypes.canonicalize_dtype(np.float64)  # float32 unless jax_enable_x64 is set
    if float(np.finfo(held).max) < largest < np.inf:
        raise ValueError(
            f"latent has values beyond float32, got {low:g} to {high:g}; to compute in float64 set "
            f"jax_enable_x64"
        )


def warn_of_scale(x: Any) -> None:
    """Warn of NumPy latents that are probably in the scale of a full VAE, or noisy."""
    if not isinstance(x, np.ndarray) or not x.size:
        return
    share = np.count_nonzero(np.abs(x) > x.dtype.type(LARGE_LATENT)) / x.size
    if share > LARGE_SHARE:
        warn(
            f"over {LARGE_SHARE:.0%} of the latents are beyond +-{LARGE_LATENT:g}: convert those "
            f"of Stable Diffusion's full VAE with taesd_jax.from_vae_latents, and noisy ones with "
            f"taesd_jax.previews.predict_x0"
        )


def _scaling(low: float, high: float) -> str:
    if low < 0 or high > 65535:
        return "scale it to that range"
    half = 127.5 if high <= 300 else 32767.5  # resizing may overshoot 255
    return f"divide values of 0 to {2 * half:g} by {half:g} and subtract 1"

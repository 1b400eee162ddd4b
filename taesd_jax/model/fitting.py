"""Fits the heads of thumbnails in closed form, against the downsampled full decode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..config import AutoencoderTinyConfig
from ..io.images import psnr
from .functional import Computation, Params, apply, select_component
from .layers import COMPONENTS
from .thumbnails import apply_thumbnail, features, head_name, scales_of
from .validation import check_image

# Of the mean of the normal equations' diagonal: less than any feature that matters, it only keeps
# features that are always zero from making the equations singular.
_RIDGE = 1e-7
# Equations that are summed at a time.
_PIXELS = 2**13

_apply = jax.jit(apply, static_argnums=2)
_apply_thumbnail = jax.jit(apply_thumbnail, static_argnums=3)


class Fit(NamedTuple):
    """Heads and how good they are.

    Attributes:
        heads: For `params["heads"]`.
        psnr: Scale -> PSNR in dB against the downsampled decode, of each held-out image.
    """

    heads: Params
    psnr: dict[float, list[float]]


def fit_heads(
    params: Params,
    images: Iterable[np.ndarray],
    held_out: Iterable[np.ndarray] = (),
    *,
    config: AutoencoderTinyConfig,
    progress: Callable[[str], object] = lambda line: None,
) -> Fit:
    """Fit a head for every scale by least squares.

    Args:
        params: Both components.
        images: Floating-point images (h, w, 3) in [-1, 1] to fit to; a few dozen photographs are
            enough, and those of a few sizes compile less.
        held_out: Others to measure with.
        config: Architecture.
        progress: Told of each image.

    Raises:
        ValueError: The images have too few pixels, are not as described or have NaN.
        TypeError: The images are not floating point.
    """
    sums: dict[float, Any] = dict.fromkeys(scales_of(config))
    for i, (latent, whole) in enumerate(_decoded(params, images, config), 1):
        progress(f"fitted to {i} images")
        for scale, old in sums.items():
            found = _normal_equations(params["decoder"], latent, whole, config, scale)
            new = [np.asarray(part, np.float64) for part in found]
            sums[scale] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]
    heads = {head_name(scale): _solve(both, scale) for scale, both in sums.items()}
    measured = {scale: [] for scale in sums}
    for i, (latent, whole) in enumerate(_decoded(params, held_out, config), 1):
        progress(f"measured on {i} images")
        for scale, values in measured.items():
            computation = Computation.of("decoder", latent, config=config, scale=scale)
            head = heads[head_name(scale)]
            small = _apply_thumbnail(params["decoder"], head, latent, computation)
            values.append(psnr(np.asarray(small[0]), np.asarray(downsample(whole, scale)[0])))
    return Fit(heads, measured)


def downsample(image: jax.Array, scale: float) -> jax.Array:
    """Clip images (n, h, w, 3) to [-1, 1] and take the mean of each square of 1/scale pixels.

    >>> downsample(jnp.ones((1, 8, 8, 3)), 1 / 4).shape
    (1, 2, 2, 3)
    """
    n, h, w, c = image.shape
    side = round(1 / scale)
    squares = jnp.clip(image, -1, 1).reshape(n, h // side, side, w // side, side, c)
    return squares.mean((2, 4))


def _decoded(
    params: Params, images: Iterable[np.ndarray], config: AutoencoderTinyConfig
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yield the latent and the whole decode of each image, cut to whole latents."""
    encoder_params, decoder_params = (select_component(params, name) for name in COMPONENTS)
    factor = config.spatial_factor
    for image in images:
        check_image(image[None], config)
        if not np.isfinite(np.asarray(image, np.float32)).all():
            raise ValueError("an image has NaN or infinity")
        h, w = (side - side % factor for side in image.shape[:2])
        if not h * w:
            raise ValueError(f"an image must have {factor} pixels a side, got {image.shape}")
        pixels = jnp.array(image[None, :h, :w], jnp.float32)
        latent = _apply(encoder_params, pixels, Computation.of("encoder", pixels, config=config))
        whole = _apply(decoder_params, latent, Computation.of("decoder", latent, config=config))
        yield latent, whole


@functools.partial(jax.jit, static_argnums=(3, 4))
def _normal_equations(
    decoder_params: Params,
    latent: jax.Array,
    whole: jax.Array,
    config: AutoencoderTinyConfig,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Return A^T A and A^T b of the equations: each pixel's 3x3 surroundings times head = pixel."""
    parts = features(decoder_params, latent, config=config, scale=scale)
    x = jnp.concatenate(list(parts), axis=-1)[0]  # (h, w, c)
    h, w, c = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    target = downsample(whole, scale)[0]  # (h, w, 3)

    def add(row: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # A few rows at a time: all nine shifts of an image would fill the memory.
        near = lax.dynamic_slice_in_dim(padded, row * rows, rows + 2)
        taps = [near[i : i + rows, j : j + w] for i in range(3) for j in range(3)]
        a = jnp.concatenate([*taps, jnp.ones((rows, w, 1), x.dtype)], axis=-1)
        a = a.reshape(rows * w, -1)  # (rows w, 9c + 1)
        b = lax.dynamic_slice_in_dim(target, row * rows, rows).reshape(rows * w, -1)
        product = functools.partial(jnp.matmul, precision="highest")
        return sums[0] + product(a.T, a), sums[1] + product(a.T, b)

    rows = max(r for r in range(1, h + 1) if h % r == 0 and (r == 1 or r * w <= _PIXELS))
    unknown = 9 * c + 1
    zeros = jnp.zeros((unknown, unknown)), jnp.zeros((unknown, target.shape[-1]))
    return lax.fori_loop(0, h // rows, add, zeros)


def _solve(both: list[np.ndarray] | None, scale: float) -> dict[str, np.ndarray]:
    # The last feature is 1: the last product counts the equations.
    count = int(both[0][-1, -1]) if both else 0
    if both is None or count < 2 * len(both[0]):
        raise ValueError(
            f"fit_heads needs more or larger images: they have {count:,} pixels at scale "
            f"1/{head_name(scale)}, fewer than twice the numbers to find"
        )
    gram, moments = both
    ridge = _RIDGE * np.trace(gram) / len(gram)
    solution = np.linalg.solve(gram + ridge * np.eye(len(gram)), moments).astype(np.float32)
    kernel = solution[:-1].reshape(3, 3, -1, moments.shape[1])
    return {"kernel": kernel, "bias": solution[-1]}

"""Fits thumbnail heads in closed form to the downsampled full decode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..config import AutoencoderTinyConfig
from ..io.images import psnr
from .functional import Computation, apply, select_component
from .inputs import as_jax, check_values
from .layers import COMPONENTS, Params, scales_of, thumbnail_name
from .thumbnails import apply_thumbnail, features
from .validation import check_image

# Ridge relative to the mean diagonal of the normal equations: far below any feature that matters,
# but enough to keep features that are always zero from making the equations singular.
_RIDGE = 1e-7
# Pixels whose equations are summed at a time.
_PIXELS = 2**13

_apply = jax.jit(apply, static_argnums=2)
_apply_thumbnail = jax.jit(apply_thumbnail, static_argnums=3)


class Fit(NamedTuple):
    """Fitted thumbnail heads and their quality.

    Attributes:
        thumbnails: For `params["thumbnails"]`.
        psnr: Scale -> PSNR in dB of each held-out image against its downsampled full decode.
    """

    thumbnails: Params
    psnr: dict[float, list[float]]


def fit_thumbnails(
    params: Params,
    images: Iterable[np.ndarray],
    held_out: Iterable[np.ndarray] = (),
    *,
    config: AutoencoderTinyConfig,
    progress: Callable[[str], object] = lambda line: None,
) -> Fit:
    """Fit a thumbnail head for every scale by least squares.

    Args:
        params: Both components.
        images: Floating-point images (h, w, 3) in [-1, 1] to fit to. A few dozen photographs are
            enough; each size compiles once.
        held_out: Other images, to measure the fit.
        config: Architecture.
        progress: Called with a line of text after each image.

    Raises:
        ValueError: The images have too few pixels, another shape, NaN or infinity.
        TypeError: The images are not floating point.
    """
    sums: dict[float, list[np.ndarray] | None] = dict.fromkeys(scales_of(config))
    for i, (latent, decoded) in enumerate(_decode_all(params, images, config), 1):
        progress(f"fitted to {i} images")
        for scale, old in sums.items():
            products = _normal_equations(params["decoder"], latent, decoded, config, scale)
            new = [np.asarray(product, np.float64) for product in products]
            sums[scale] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]
    heads = {thumbnail_name(scale): _solve(products, scale) for scale, products in sums.items()}
    measured: dict[float, list[float]] = {scale: [] for scale in sums}
    for i, (latent, decoded) in enumerate(_decode_all(params, held_out, config), 1):
        progress(f"measured on {i} images")
        for scale, values in measured.items():
            computation = Computation.of("decoder", latent, config=config, scale=scale)
            head = heads[thumbnail_name(scale)]
            thumbnail = _apply_thumbnail(params["decoder"], head, latent, computation)
            values.append(psnr(np.asarray(thumbnail[0]), np.asarray(downsample(decoded, scale)[0])))
    return Fit(heads, measured)


def downsample(image: jax.Array, scale: float) -> jax.Array:
    """Clip images (n, h, w, 3) to [-1, 1] and average each square of 1/scale x 1/scale pixels.

    >>> downsample(jnp.ones((1, 8, 8, 3)), 1 / 4).shape
    (1, 2, 2, 3)
    """
    n, h, w, c = image.shape
    side = round(1 / scale)
    squares = jnp.clip(image, -1, 1).reshape(n, h // side, side, w // side, side, c)
    return squares.mean((2, 4))


def _decode_all(
    params: Params, images: Iterable[np.ndarray], config: AutoencoderTinyConfig
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yield the latent and the full decode of each image, cropped to whole latents."""
    encoder_params, decoder_params = (select_component(params, name) for name in COMPONENTS)
    factor = config.spatial_factor
    for image in images:
        check_image(image[None], config)
        check_values(image, "encoder")
        if not np.isfinite(np.asarray(image, np.float32)).all():
            raise ValueError("an image has NaN or infinity")
        h, w = (side - side % factor for side in image.shape[:2])
        if not h * w:
            raise ValueError(
                f"images must have sides of at least {factor} pixels, got {image.shape}"
            )
        pixels = as_jax(image[None, :h, :w]).astype(jnp.float32)
        latent = _apply(encoder_params, pixels, Computation.of("encoder", pixels, config=config))
        computation = Computation.of("decoder", latent, config=config)
        yield latent, _apply(decoder_params, latent, computation)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _normal_equations(
    decoder_params: Params,
    latent: jax.Array,
    decoded: jax.Array,
    config: AutoencoderTinyConfig,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Return A^T A and A^T b; a row of A is a pixel's 3x3 features and 1, a row of b the pixel."""
    parts = features(decoder_params, latent, config=config, scale=scale)
    x = jnp.concatenate(list(parts), axis=-1)[0]  # (h, w, c)
    h, w, c = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    target = downsample(decoded, scale)[0]  # (h, w, 3)

    def add(row: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # A few rows at a time: nine shifted copies of a whole image would take too much memory.
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


def _solve(products: list[np.ndarray] | None, scale: float) -> dict[str, np.ndarray]:
    # The last feature is 1, so that the last diagonal element counts the equations.
    count = int(products[0][-1, -1]) if products else 0
    if products is None or count < 2 * len(products[0]):
        raise ValueError(
            f"fit_thumbnails needs more or larger images: they have {count:,} pixels at scale "
            f"1/{thumbnail_name(scale)}, fewer than twice the number of unknowns"
        )
    gram, moments = products
    ridge = _RIDGE * np.trace(gram) / len(gram)
    solution = np.linalg.solve(gram + ridge * np.eye(len(gram)), moments).astype(np.float32)
    kernel = solution[:-1].reshape(3, 3, -1, moments.shape[1])
    return {"kernel": kernel, "bias": solution[-1]}

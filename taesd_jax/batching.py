"""Slicing: a batch in chunks, so that the activations of one chunk at a time stand in memory."""

from __future__ import annotations

import functools
import operator

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from .config import AutoencoderTinyConfig
from .functional import Params, check_image, check_latent, decode, encode


def encode_sliced(
    params: Params,
    image: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    chunk: int = 1,
    dtype: DTypeLike | None = None,
    remat: bool = False,
) -> jax.Array:
    """Encode a batch `chunk` images at a time; see `taesd_jax.encode` for the rest."""
    check_image(image, config)
    return _map(_encode_one, params, image, config, check_chunk(chunk), dtype, remat)


def decode_sliced(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    chunk: int = 1,
    dtype: DTypeLike | None = None,
    remat: bool = False,
) -> jax.Array:
    """Decode a batch `chunk` latents at a time; see `taesd_jax.decode` for the rest."""
    check_latent(latent, config)
    return _map(_decode_one, params, latent, config, check_chunk(chunk), dtype, remat)


def check_chunk(chunk: int) -> int:
    """Return `chunk` if it is a positive integer, else raise ValueError."""
    if isinstance(chunk, bool) or not hasattr(chunk, "__index__") or chunk < 1:
        raise ValueError(f"chunk must be a positive integer, got {chunk!r}")
    return operator.index(chunk)


def _encode_one(params, image, **options):
    return encode(params, image[None], **options)[0]


def _decode_one(params, latent, **options):
    return decode(params, latent[None], **options)[0]


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5, 6))
def _map(one, params, x, config, chunk, dtype, remat):
    return lax.map(
        lambda x: one(params, x, config=config, dtype=dtype, remat=remat), x, batch_size=chunk
    )

"""Slicing: a batch in chunks, so that the activations of one chunk at a time stand in memory."""

from __future__ import annotations

import functools
import operator

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.functional import Params, decode, encode, partitioned
from ..model.validation import check_image, check_latent
from .streaming import decode_streaming, encode_streaming
from .strips import Plan


def encode_sliced(
    params: Params,
    image: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    chunk: int = 1,
    plan: Plan | None = None,
    dtype: DTypeLike | None = None,
    remat: bool = False,
) -> jax.Array:
    """Encode a batch `chunk` images at a time, streamed if there is a plan.

    See `taesd_jax.encode` for the rest; remat has no effect on streaming.
    """
    check_image(image, config)
    return _map("encoder", params, image, config, check_chunk(chunk), plan, dtype, remat)


def decode_sliced(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    chunk: int = 1,
    plan: Plan | None = None,
    dtype: DTypeLike | None = None,
    remat: bool = False,
) -> jax.Array:
    """Decode a batch `chunk` latents at a time, streamed if there is a plan.

    See `taesd_jax.decode` for the rest; remat has no effect on streaming.
    """
    check_latent(latent, config)
    return _map("decoder", params, latent, config, check_chunk(chunk), plan, dtype, remat)


def check_chunk(chunk: int) -> int:
    """Return `chunk` if it is a positive integer, else raise ValueError."""
    if isinstance(chunk, bool) or not hasattr(chunk, "__index__") or chunk < 1:
        raise ValueError(f"chunk must be a positive integer, got {chunk!r}")
    return operator.index(chunk)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5, 6, 7))
def _map(half, params, x, config, chunk, plan, dtype, remat):
    if plan:
        run = functools.partial(
            decode_streaming if half == "decoder" else encode_streaming, plan=plan
        )
    else:
        run = functools.partial(decode if half == "decoder" else encode, remat=remat)

    def all_of(params: Params, x: jax.Array) -> jax.Array:
        return lax.map(
            lambda x: run(params, x[None], config=config, dtype=dtype)[0], x, batch_size=chunk
        )

    return partitioned(all_of, x)(params, x)

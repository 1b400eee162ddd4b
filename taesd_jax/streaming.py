"""Exact row streaming: a half in strips of rows, in memory that does not grow with the height."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from .config import AutoencoderTinyConfig
from .convolutions import narrow
from .functional import Params, bind, check_image, check_latent, half_of, resolve_dtypes
from .layers import Half, stages_of
from .modules import apply_layers
from .strips import Plan, Stream


def decode_streaming(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    plan: Plan | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Decode in strips of rows; the result of `taesd_jax.decode`, on a CPU bit for bit.

    Args:
        params: As for `decode`.
        latent: As for `decode`.
        config: As for `decode`.
        plan: How to stream; `default_plan` without one.
        dtype: As for `decode`.

    Raises:
        ValueError: As `decode`, or the plan does not fit the config.
        TypeError: As `decode`.
    """
    check_latent(latent, config)
    return _run(params, latent, "decoder", config, plan, dtype)


def encode_streaming(
    params: Params,
    image: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    plan: Plan | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Encode in strips of rows; the result of `taesd_jax.encode`, on a CPU bit for bit.

    Args:
        params: As for `encode`.
        image: As for `encode`.
        config: As for `encode`.
        plan: How to stream; `default_plan` without one.
        dtype: As for `encode`.

    Raises:
        ValueError: As `encode`, or the plan does not fit the config.
        TypeError: As `encode`.
    """
    check_image(image, config)
    return _run(params, image, "encoder", config, plan, dtype)


def iter_decode(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    plan: Plan | None = None,
    dtype: DTypeLike | None = None,
) -> Iterator[jax.Array]:
    """Decode into strips of finished image rows, from the top, for pictures too large to hold.

    Args:
        params: As for `decode`.
        latent: As for `decode`; each strip holds rows of every image in the batch.
        config: As for `decode`.
        plan: How to stream; `default_plan` without one.
        dtype: As for `decode`.

    Yields:
        Images (n, rows, 8w, 3); all strips together are the result of `decode`.

    Raises:
        ValueError: As `decode`, or the plan does not fit the config.
        TypeError: As `decode`.
    """
    check_latent(latent, config)
    compute, result = resolve_dtypes(latent, config, dtype)
    plan = _check_plan(plan, "decoder", config)
    return _iterate(
        half_of(params, "decoder"),
        latent,
        Stream("decoder", config.architecture, plan, jnp.shape(latent)[1]),
        compute,
        result,
    )


def default_plan(half: Half, config: AutoencoderTinyConfig) -> Plan:
    """Return the plan that is used without one: the last two changes of size in strips of 32 rows.

    On a CPU it is about as fast as any; `taesd-jax bench --plans` compares.

    >>> default_plan("decoder", AutoencoderTinyConfig())
    Plan(whole=1, rows=4)
    """
    stages = stages_of(half, config)
    return Plan(whole=max(stages - 2, int(config.pool_channels > 0)), rows=4)


def _check_plan(plan: Plan | None, half: Half, config: AutoencoderTinyConfig) -> Plan:
    plan = plan or default_plan(half, config)
    least, most = int(config.pool_channels > 0), stages_of(half, config)
    if not least <= plan.whole <= most or plan.rows < 1:
        raise ValueError(
            f"a plan for this {half} must have {least} to {most} whole stages and at least one "
            f"row, got {plan}"
        )
    return plan


def _run(
    params: Params,
    x: Any,
    half: Half,
    config: AutoencoderTinyConfig,
    plan: Plan | None,
    dtype: DTypeLike | None,
) -> jax.Array:
    compute, result = resolve_dtypes(x, config, dtype)
    stream = Stream(half, config.architecture, _check_plan(plan, half, config), x.shape[1])
    return _stream(half_of(params, half), x, stream, compute, result)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _stream(
    half_params: Params, x: jax.Array, stream: Stream, compute: str, result: str
) -> jax.Array:
    module = bind(half_params, stream.half, stream.config)
    x = x.astype(compute)
    if stream.half == "decoder":
        x = narrow(apply_layers(module, stream.parts[0], x, compute), compute)
    strip, kept = stream.run(module, x, 0, None, compute)
    if stream.steps:
        n, _, w, c = strip.shape
        more = jnp.zeros((n, stream.steps * stream.rows_out, w, c), strip.dtype)

        def body(step, carry):
            out, kept = carry
            strip, kept = stream.run(module, x, step, kept, compute)
            top = stream.first_out + step * stream.rows_out
            return lax.dynamic_update_slice_in_dim(out, strip, top, axis=1), kept

        out = jnp.concatenate([strip, more], axis=1)
        strip, _ = lax.fori_loop(0, stream.steps, body, (out, kept))
    out = strip[:, : stream.height_out]
    if stream.half == "encoder":
        out = narrow(apply_layers(module, stream.parts[0], out, compute), compute)
    return out.astype(result)


def _iterate(
    half_params: Params, latent: Any, stream: Stream, compute: str, result: str
) -> Iterator[jax.Array]:
    x = _trunk(half_params, latent, stream, compute)
    strip, kept = _step(half_params, x, 0, None, stream, compute, result)
    yield strip[:, : stream.height_out]
    for step in range(stream.steps):
        strip, kept = _step(half_params, x, step, kept, stream, compute, result)
        yield strip[:, : stream.height_out - stream.first_out - step * stream.rows_out]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _trunk(half_params: Params, latent: jax.Array, stream: Stream, compute: str) -> jax.Array:
    module = bind(half_params, "decoder", stream.config)
    x = apply_layers(module, stream.parts[0], latent.astype(compute), compute)
    return narrow(x, compute)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _step(
    half_params: Params,
    x: jax.Array,
    step: jax.Array | int,
    kept: list[jax.Array] | None,
    stream: Stream,
    compute: str,
    result: str,
) -> tuple[jax.Array, list[jax.Array]]:
    module = bind(half_params, "decoder", stream.config)
    strip, kept = stream.run(module, x, step, kept, compute)
    return strip.astype(result), kept

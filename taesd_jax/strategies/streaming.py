"""Exact row streaming: a half in strips of rows, in memory that does not grow with the height."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.functional import Params, bind, half_of, partitioned, resolve_dtypes
from ..model.layers import Half, split_layers, stages_of
from ..model.modules import Decoder, Encoder, apply_layers
from ..model.validation import check_image, check_latent
from .strips import Plan, Stream, height_after


def decode_streaming(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    plan: Plan | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Decode in strips of rows; the result of `taesd_jax.decode`.

    On a CPU it is so bit for bit, but for pictures a few latents wide or high: there XLA multiplies
    in another order for another shape.

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
    """Encode in strips of rows; the result of `taesd_jax.encode`.

    On a CPU it is so bit for bit, but for pictures a few latents wide or high: there XLA multiplies
    in another order for another shape.

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


def default_plan(half: Half, config: AutoencoderTinyConfig) -> Plan:
    """Return the plan that is used without one, the fastest on a CPU by `taesd-jax bench --plans`.

    An encoder's first layers go on for as many rows beyond the image as its last run behind, so
    more of its stages run whole.

    >>> default_plan("decoder", AutoencoderTinyConfig())
    Plan(whole=1, rows=4)
    >>> default_plan("encoder", AutoencoderTinyConfig())
    Plan(whole=2, rows=8)
    """
    stages, least = stages_of(half, config), int(config.pool_channels > 0)
    if half == "encoder":
        return Plan(whole=max(stages - 1, least), rows=8)
    return Plan(whole=max(stages - 2, least), rows=4)


def check_plan(plan: Plan | None, half: Half, config: AutoencoderTinyConfig) -> Plan:
    """Return the plan, or the default one, if it fits the config; else raise ValueError."""
    plan = default_plan(half, config) if plan is None else Plan(*plan)
    least, most = int(config.pool_channels > 0), stages_of(half, config)
    if least > most:
        raise ValueError(
            f"this {half} is one stage with a norm over the whole image, which cannot be streamed"
        )
    if not all(type(value) is int for value in plan):
        raise TypeError(f"a plan must be two integers, got {plan}")
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
    plan = check_plan(plan, half, config)
    whole = split_layers(half, config, plan.whole)[0] if half == "decoder" else ()
    stream = Stream(half, config.architecture, plan, height_after(whole, x.shape[1]))
    return _stream(half_of(params, half), x, stream, compute, result)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _stream(
    half_params: Params, x: jax.Array, stream: Stream, compute: str, result: str
) -> jax.Array:
    def run(half_params: Params, x: jax.Array) -> jax.Array:
        module = bind(half_params, stream.half, stream.config)
        x = x.astype(compute)
        if stream.half == "decoder":
            x = apply_layers(module, stream.parts[0], x)
        out = _strips(module, x, stream, compute)
        if stream.half == "encoder":
            out = apply_layers(module, stream.parts[0], out)
        return out.astype(result)

    return partitioned(run, x)(half_params, x)


def _strips(module: Encoder | Decoder, x: jax.Array, stream: Stream, compute: str) -> jax.Array:
    def run(step: Any, kept: list[jax.Array] | None) -> tuple[jax.Array, list[jax.Array]]:
        top, rows = stream.rows_of(step, first=kept is None)
        strip = jnp.take(x, top + jnp.arange(rows), axis=1, mode="clip")
        return stream.run(module, strip, top, kept, compute)

    strip, kept = run(0, None)
    if stream.steps:
        n, _, w, c = strip.shape
        more = jnp.zeros((n, stream.steps * stream.rows_out, w, c), strip.dtype)

        def body(step: Any, carry: Any) -> Any:
            out, kept = carry
            strip, kept = run(step, kept)
            top = stream.first_out + step * stream.rows_out
            return lax.dynamic_update_slice_in_dim(out, strip, top, axis=1), kept

        out = jnp.concatenate([strip, more], axis=1)
        strip, _ = lax.fori_loop(0, stream.steps, body, (out, kept))
    return strip[:, : stream.height_out]

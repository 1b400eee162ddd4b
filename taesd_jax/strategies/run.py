"""Encode and decode: pure functions, compiled, that compose with jit, grad, vmap and shardings."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..kernels import ONEDNN_OPTIONS, XLA, Engine, count_multiprocessors, has_onednn, is_half
from ..model.functional import Computation, Params, apply, bind, finish, select_component
from ..model.inputs import check_values, warn_of_scale
from ..model.thumbnails import apply_thumbnail, select_head
from ..model.validation import check_count
from .geometry import Geometry
from .parts import run_full_stages
from .placement import (
    batch_sharding,
    by_device,
    is_on_cpu,
    is_traced,
    place,
    with_auto_axes,
)
from .strategy import Full, Strategy, Strips, Tiles, resolve_strategy
from .strips import run_strips
from .tiles import run_tiles, run_tiles_on_host


def encode(
    params: Params,
    images: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    strategy: Strategy | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Encode images into latents in model space.

    Sides that `config.spatial_factor` does not divide are rounded up, as PyTorch does.

    Args:
        params: Nested dict with the key "encoder"; its dtype is free, see `dtype`.
        images: Floating point (n, h, w, 3) in [-1, 1]. The range of NumPy arrays is checked; arrays
            on a device are not waited for, and those of somebody's jit have no values yet.
        config: Architecture.
        strategy: As for `decode`.
        batch_size: Images computed at a time, with every strategy; None for all of them.
        dtype: As for `decode`; with `config.force_upcast` the latents still have it.

    Returns:
        Latents (n, ceil(h / 8), ceil(w / 8), z); 32 in place of 8 for taesana.

    Raises:
        ValueError: As for `decode`, or the values of a NumPy array are far outside [-1, 1].
        TypeError: As for `decode`.

    >>> import jax.numpy as jnp
    >>> from taesd_jax import VARIANTS, init
    >>> config = VARIANTS["taesd"]
    >>> params = init(jax.random.key(0), config=config)
    >>> encode(params, jnp.zeros((1, 64, 48, 3)), config=config).shape
    (1, 8, 6, 4)
    """
    computation = Computation.of("encoder", images, config=config, dtype=dtype)
    return run(select_params(params, computation), images, computation, strategy, batch_size)


def decode(
    params: Params,
    latents: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    strategy: Strategy | None = None,
    batch_size: int | None = None,
    scale: float = 1,
    dtype: DTypeLike | None = None,
    out_dtype: DTypeLike | None = None,
) -> jax.Array:
    """Decode latents in model space into images.

    Args:
        params: Nested dict with the key "decoder"; its dtype is free, see `dtype`. A scale below 1
            needs "thumbnails", which `add_thumbnails` or `fit_thumbnails` brings.
        latents: Floating point (n, h, w, z) with scale 1 and shift 0: what the diffusion model
            itself sees, not divided by its VAE's scaling factor. NumPy arrays are checked, as for
            `encode`: a warning is given where many values are as large as those of a full VAE.
        config: Architecture.
        strategy: `Full()`, `Strips()` or `Tiles()`, which give the same images; None is `Full()`.
        batch_size: Latents computed at a time, with every strategy; None for all of them.
        scale: 1, or 1/2, 1/4, ... 1 / `config.spatial_factor` for thumbnails of that size, close
            to the downsampled images for a part of the work. They run in full.
        dtype: Dtype of the computation and of the result; the input's by default. With
            `config.force_upcast` the computation is float32 whatever it says.
        out_dtype: Dtype of the images; by default `dtype`. "uint8" maps [-1, 1] to 0 to 255 on the
            device, rounded and clipped, NaN to 0: a quarter of the bytes on their way to the host.

    Returns:
        Images (n, 8h * scale, 8w * scale, 3) of about [-1, 1], not clipped but for uint8; 32 in
        place of 8 for taesana.

    Raises:
        ValueError: The input has the wrong rank, channels or size, params or strategy do not fit
            config, batch_size is not positive, or there are no thumbnails of that scale.
        TypeError: The input is not floating point, or an argument has the wrong type.

    >>> import jax.numpy as jnp
    >>> from taesd_jax import VARIANTS, init
    >>> config = VARIANTS["taesd"]
    >>> params = init(jax.random.key(0), config=config)
    >>> decode(params, jnp.zeros((1, 8, 6, 4)), config=config, strategy=Strips()).shape
    (1, 64, 48, 3)
    """
    options: dict[str, Any] = {"dtype": dtype, "out_dtype": out_dtype, "scale": scale}
    computation = Computation.of("decoder", latents, config=config, **options)
    return run(select_params(params, computation), latents, computation, strategy, batch_size)


def select_params(params: Params, computation: Computation) -> Any:
    """Return a component of params, or a decoder and a thumbnail's head; ValueError without it."""
    component_params = select_component(params, computation.component)
    if computation.scale == 1:
        return component_params
    return component_params, select_head(params, computation.scale, computation.config)


def run(
    params: Any,
    x: Any,
    computation: Computation,
    strategy: Strategy | None,
    batch_size: int | None,
) -> jax.Array:
    """Compute x, whose shape was checked, from what `select_params` returns; None is `Full()`."""
    strategy = resolve_strategy(strategy, computation.component, computation.config)
    if batch_size is not None:
        batch_size = check_count("batch_size", batch_size)
    if computation.scale != 1 and not isinstance(strategy, Full):
        raise ValueError(f"thumbnails run with strategy=Full(), got {strategy}")
    if not isinstance(strategy, Full) and not all(isinstance(size, int) for size in x.shape):
        raise ValueError(f"symbolic sizes run with strategy=Full(), got {strategy} for {x.shape}")
    if computation.engine is None:
        computation = with_engine(params, x, computation, strategy)
    check_values(x, computation.component)
    if computation.component == "decoder":
        warn_of_scale(x)
    if isinstance(strategy, Tiles) and is_on_cpu(x, params):
        geometry = Geometry.of(strategy, computation.component, computation.config)
        return run_tiles_on_host(params, x, computation, geometry, batch_size)
    params, x = place((params, x))
    # XLA's partitioner cannot divide kernels; where only the batch is divided, it need not.
    engine = computation.engine or XLA
    sharding = batch_sharding(x) if engine.multiprocessors else None
    # Compiler options belong to the outermost program.
    compiled = _run_by_onednn if engine.onednn and not is_traced(x, params) else _run
    return compiled(params, x, computation, strategy, batch_size, sharding)


def with_engine(
    params: Any, x: Any, computation: Computation, strategy: Strategy | None = None
) -> Computation:
    """Choose what serves the convolutions of a call.

    Args:
        params: Those of the call.
        x: Its input, or an array of that shape.
        computation: What is computed.
        strategy: How, or None for what a planner may choose.
    """
    engine = XLA
    if is_half(computation.dtype) and not isinstance(strategy, Tiles):
        kernels = strategy.kernels if isinstance(strategy, Full) else None
        if has_onednn(computation.dtype, kernels) and is_on_cpu(x, params):
            engine = Engine(onednn=True)
        elif isinstance(strategy, Full):
            engine = Engine(multiprocessors=count_multiprocessors(kernels))
    return dataclasses.replace(computation, engine=engine)


def _run_batches(
    params: Any,
    x: jax.Array,
    computation: Computation,
    strategy: Strategy,
    batch_size: int | None,
    sharding: NamedSharding | None,
) -> jax.Array:
    def run_batches(params: Any, x: jax.Array) -> jax.Array:
        def run_batch(x: jax.Array) -> jax.Array:
            return _run_batch(params, x, computation, strategy)

        if batch_size is None:
            return run_batch(x)
        return lax.map(lambda image: run_batch(image[None])[0], x, batch_size=batch_size)

    if sharding is not None:
        return by_device(run_batches, sharding)(params, x)
    return with_auto_axes(run_batches, x)(params, x)


_run = jax.jit(_run_batches, static_argnums=(2, 3, 4, 5))
_run_by_onednn = jax.jit(_run_batches, static_argnums=(2, 3, 4, 5), compiler_options=ONEDNN_OPTIONS)


def _run_batch(
    params: Any, x: jax.Array, computation: Computation, strategy: Strategy
) -> jax.Array:
    if computation.scale != 1:
        decoder_params, head = params
        return apply_thumbnail(decoder_params, head, x, computation)
    if isinstance(strategy, Full):
        return apply(params, x, computation, remat=strategy.remat)
    geometry = Geometry.of(strategy, computation.component, computation.config)
    module = bind(params, computation.component, computation.config, computation.engine or XLA)
    stages = [run_full_stages, run_strips if isinstance(strategy, Strips) else run_tiles]
    x = x.astype(computation.dtype)
    for stage in stages if computation.component == "decoder" else stages[::-1]:
        x = stage(module, x, geometry)
    return finish(x, computation)

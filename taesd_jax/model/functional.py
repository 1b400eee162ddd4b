"""Pure encode and decode, compiled; they compose with jit, grad, vmap, scan and shardings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jax.typing import ArrayLike, DTypeLike

from ..config import AutoencoderTinyConfig
from ..kernels import count_multiprocessors, is_half
from .layers import HALVES, Half
from .modules import Decoder, Encoder
from .validation import check_dtype, check_image, check_latent

Params = dict[str, Any]


def encode(
    params: Params,
    image: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    dtype: DTypeLike | None = None,
    remat: bool = False,
) -> jax.Array:
    """Encode images into latents in model space.

    Sides that `config.spatial_factor` does not divide are rounded up, as PyTorch does.

    Args:
        params: Nested dict with the key "encoder"; its dtype is free, see `dtype`.
        image: Floating point (n, h, w, 3) in [-1, 1].
        config: Architecture.
        dtype: Dtype of the computation and of the result; the image's by default. With
            `config.force_upcast` the computation is float32 and only the result has this dtype.
        remat: Recompute each block in the backward pass instead of storing its activations; a GPU
            or TPU then needs less memory, while XLA's CPU compiler merges the two again.

    Returns:
        Latents (n, ceil(h / 8), ceil(w / 8), z); 32 in place of 8 for taesana.

    Raises:
        ValueError: The image has the wrong rank, channels or size, or params do not fit config.
        TypeError: The image is not floating point.

    >>> from taesd_jax import VARIANTS
    >>> config = VARIANTS["taesd"]
    >>> params = init(jax.random.key(0), config=config)
    >>> encode(params, jnp.zeros((1, 64, 48, 3)), config=config).shape
    (1, 8, 6, 4)
    """
    check_image(image, config)
    return _run(params, image, "encoder", config, dtype, remat)


def decode(
    params: Params,
    latent: ArrayLike,
    *,
    config: AutoencoderTinyConfig,
    dtype: DTypeLike | None = None,
    remat: bool = False,
) -> jax.Array:
    """Decode latents in model space into images.

    Args:
        params: Nested dict with the key "decoder"; its dtype is free, see `dtype`.
        latent: Floating point (n, h, w, z) with scale 1 and shift 0: what the diffusion model
            itself sees, not divided by its VAE's scaling factor.
        config: Architecture.
        dtype: Dtype of the computation and of the result; the latent's by default. With
            `config.force_upcast` the computation is float32 and only the result has this dtype.
        remat: Recompute each block in the backward pass instead of storing its activations; a GPU
            or TPU then needs less memory, while XLA's CPU compiler merges the two again.

    Returns:
        Images (n, 8h, 8w, 3) of about [-1, 1], not clipped; 32 in place of 8 for taesana.

    Raises:
        ValueError: The latent has the wrong rank, channels or size, or params do not fit config.
        TypeError: The latent is not floating point.

    >>> from taesd_jax import VARIANTS
    >>> config = VARIANTS["taesd"]
    >>> params = init(jax.random.key(0), config=config)
    >>> decode(params, jnp.zeros((1, 8, 6, 4)), config=config).shape
    (1, 64, 48, 3)
    """
    check_latent(latent, config)
    return _run(params, latent, "decoder", config, dtype, remat)


def init(
    key: jax.Array, *, config: AutoencoderTinyConfig, dtype: DTypeLike = jnp.float32
) -> Params:
    """Draw random parameters for both halves.

    Args:
        key: From `jax.random.key`.
        config: Architecture.
        dtype: Dtype of the parameters.

    Returns:
        {"encoder": ..., "decoder": ...}, nested dicts with string keys.
    """
    keys = dict(zip(HALVES, jax.random.split(key), strict=True))
    modules = {
        half: _module_class(half)(config, param_dtype=dtype, rngs=nnx.Rngs(keys[half]))
        for half in HALVES
    }
    return {half: nnx.to_pure_dict(nnx.state(module)) for half, module in modules.items()}


def abstract_params(half: Half, config: AutoencoderTinyConfig) -> Params:
    """Return one half's params as `jax.ShapeDtypeStruct`s, without computing anything."""
    return nnx.to_pure_dict(_abstract(half, config)[1])


def _run(
    params: Params,
    x: Any,
    half: Half,
    config: AutoencoderTinyConfig,
    dtype: DTypeLike | None,
    remat: bool,
) -> jax.Array:
    compute, result = resolve_dtypes(x, config, dtype)
    count = count_multiprocessors() if is_half(compute) else 0
    static = (half, config.architecture, compute, result, remat, count)
    return _apply(half_of(params, half), x, *static)


def resolve_dtypes(
    x: Any, config: AutoencoderTinyConfig, dtype: DTypeLike | None
) -> tuple[str, str]:
    """Return the dtypes of the computation and of the result for input x.

    Raises:
        TypeError: One is not a floating-point dtype.
    """
    result = check_dtype(x.dtype if dtype is None else dtype)
    return ("float32" if config.force_upcast else result), result


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6, 7))
def _apply(
    half_params: Params,
    x: jax.Array,
    half: Half,
    architecture: AutoencoderTinyConfig,
    compute: str,
    result: str,
    remat: bool,
    multiprocessors: int,
) -> jax.Array:
    def run(half_params: Params, x: jax.Array) -> jax.Array:
        module = bind(half_params, half, architecture)
        y = module(x.astype(compute), remat=remat, multiprocessors=multiprocessors)
        return y.astype(result)

    return partitioned(run, x)(half_params, x)


def partitioned(run: Callable[[Any, jax.Array], jax.Array], x: jax.Array) -> Callable[..., Any]:
    """Leave an explicitly sharded x to XLA's partitioner; the result is sharded as x.

    It exchanges the edges that convolutions need, which JAX's own rules refuse to decide.
    """
    sharding = jax.typeof(x).sharding
    if not any(axis is not None for axis in sharding.spec):
        return run
    return jax.sharding.auto_axes(run, out_sharding=sharding)


def bind(half_params: Params, half: Half, config: AutoencoderTinyConfig) -> Encoder | Decoder:
    """Return the Flax module of one half with the given params.

    Raises:
        ValueError: The params are not those of this half of `config`; lists every difference.
    """
    graph, shapes = _abstract(half, config)
    _check_params(half_params, nnx.to_pure_dict(shapes), half)
    return nnx.merge(graph, half_params)


def _module_class(half: Half) -> type[Encoder] | type[Decoder]:
    return Encoder if half == "encoder" else Decoder


@functools.lru_cache(maxsize=64)
def _abstract(half: Half, config: AutoencoderTinyConfig) -> tuple[Any, Any]:
    make = _module_class(half)
    return nnx.split(nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0))))


def _check_params(params: Params, expected: Params, half: Half) -> None:
    got, want = _shapes(params), _shapes(expected)
    if got != want:
        missing = sorted(want.keys() - got.keys())
        unexpected = sorted(got.keys() - want.keys())
        shapes = [
            f"{k} must be {want[k]}, got {got[k]}"
            for k in sorted(want.keys() & got.keys())
            if want[k] != got[k]
        ]
        raise ValueError(
            f"{half} params do not fit the config: missing {missing}, unexpected {unexpected}, "
            f"mis-shaped {shapes}"
        )


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(k, simple=True, separator="."): np.shape(v) for k, v in leaves}


def half_of(params: Params, half: Half) -> Params:
    """Return one half of params as plain dicts, else raise ValueError."""
    if not isinstance(params, Mapping) or half not in params:
        keys = sorted(params) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"params must be a dict with the key {half!r}, got {keys}; load a checkpoint with its "
            f"{half}"
        )
    return _plain(params[half])


def _plain(tree: Any) -> Any:
    # Pipelines pass Flax's FrozenDict.
    if type(tree) is dict or not isinstance(tree, Mapping):
        return tree
    return {key: _plain(branch) for key, branch in tree.items()}


def is_sharded(x: Any) -> bool:
    """Return whether x lies in parts on several devices, as far as can be seen."""
    if isinstance(x, Tracer):
        return any(axis is not None for axis in jax.typeof(x).sharding.spec)
    return isinstance(x, jax.Array) and not x.sharding.is_fully_replicated


def placement(*trees: Any) -> Sharding | None:
    """Return where the first array that was put somewhere lies, whole on each device, or None."""
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed:
            sharding = leaf.sharding
            if isinstance(sharding, NamedSharding):
                return NamedSharding(sharding.mesh, PartitionSpec())
            return sharding if len(sharding.device_set) == 1 else None
    return None

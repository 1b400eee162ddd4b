"""One component as a pure function of its params and input, and the params themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ..config import AutoencoderTinyConfig
from ..kernels import XLA, Engine
from .layers import COMPONENTS, Component, Params
from .modules import Network
from .validation import check_dtype, check_input, check_out_dtype, check_scale


@dataclasses.dataclass(frozen=True)
class Computation:
    """What is computed; hashable, so that it is one static argument of compiled functions.

    Attributes:
        component: "encoder" or "decoder".
        config: Architecture, without labels.
        dtype: Dtype of the computation.
        out_dtype: Dtype of the result, "uint8" for images of 8 bits.
        scale: 1, or the scale of a decoder's thumbnails.
        engine: What serves convolutions in half precision; None until a call chooses.
    """

    component: Component
    config: AutoencoderTinyConfig
    dtype: str
    out_dtype: str
    scale: float = 1
    engine: Engine | None = None

    @classmethod
    def of(
        cls,
        component: Component,
        x: Any,
        *,
        config: AutoencoderTinyConfig,
        dtype: DTypeLike | None = None,
        out_dtype: DTypeLike | None = None,
        scale: float = 1,
    ) -> Computation:
        """Check an input and describe its computation; the dtypes are x's unless told otherwise.

        Raises:
            ValueError: As `check_input` and `check_scale`.
            TypeError: As `check_input`; `dtype` is not floating point, or `out_dtype` neither that
                nor uint8.
        """
        check_input(component, x, config)
        scale = check_scale(scale, component, config)
        if dtype is None:
            dtype = jax.dtypes.canonicalize_dtype(x.dtype.newbyteorder("="))
        result_dtype = compute_dtype = check_dtype(dtype)
        if config.force_upcast:
            compute_dtype = "float32"
        if out_dtype is not None:
            result_dtype = check_out_dtype(out_dtype)
        return cls(component, config.architecture, compute_dtype, result_dtype, scale)


def apply(
    component_params: Params, x: jax.Array, computation: Computation, *, remat: bool = False
) -> jax.Array:
    """Run a component on whole images or latents; not compiled, and x is not checked."""
    engine = computation.engine or XLA
    module = bind(component_params, computation.component, computation.config, engine)
    return finish(module(x.astype(computation.dtype), remat=remat), computation)


def finish(y: jax.Array, computation: Computation) -> jax.Array:
    """Return a result in the dtype that was asked for, see `quantize`."""
    if computation.out_dtype == "uint8":
        return quantize(y)
    return y.astype(computation.out_dtype)


@jax.jit
def quantize(images: jax.Array) -> jax.Array:
    """Map [-1, 1] to 8 bits by rounding, as `io.images.to_uint8` does, where the images lie.

    Values outside are clipped. NaN, which that refuses, becomes 0.
    """
    values = (jnp.clip(images.astype(jnp.float32), -1, 1) + 1) * np.float32(127.5)
    return jnp.where(jnp.isnan(values), 0, jnp.round(values)).astype(jnp.uint8)


def init(
    key: jax.Array, *, config: AutoencoderTinyConfig, dtype: DTypeLike = jnp.float32
) -> Params:
    """Draw random parameters for encoder and decoder.

    Args:
        key: From `jax.random.key`.
        config: Architecture.
        dtype: Dtype of the parameters.

    Returns:
        {"encoder": ..., "decoder": ...}, nested dicts with string keys.
    """
    networks = {
        component: Network(component, config, param_dtype=dtype, rngs=nnx.Rngs(key))
        for component, key in zip(COMPONENTS, jax.random.split(key), strict=True)
    }
    return {name: nnx.to_pure_dict(nnx.state(network)) for name, network in networks.items()}


def abstract_params(component: Component, config: AutoencoderTinyConfig) -> Params:
    """Return a component's params as `jax.ShapeDtypeStruct`s, without computing anything."""
    return nnx.to_pure_dict(_abstract(component, config)[1])


def bind(
    component_params: Params,
    component: Component,
    config: AutoencoderTinyConfig,
    engine: Engine = XLA,
) -> Network:
    """Return the Flax module of a component with the given params.

    Args:
        component_params: `params["encoder"]` or `params["decoder"]`.
        component: Which.
        config: Architecture.
        engine: What serves its convolutions in half precision.

    Raises:
        ValueError: The params are not those of this component of `config`; lists every difference.
    """
    graph, shapes = _abstract(component, config)
    check_params(component_params, nnx.to_pure_dict(shapes), component)
    module = nnx.merge(graph, component_params)
    module.set_attributes(engine=engine)
    return module


def select_component(params: Params, component: Component) -> Params:
    """Return one component of params as plain dicts, else raise ValueError."""
    if not isinstance(params, Mapping) or component not in params:
        keys = sorted(params) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"params must be a dict with the key {component!r}, got {keys}; load a checkpoint with "
            f"its {component}"
        )
    return _plain(params[component])


def _plain(tree: Any) -> Any:
    # Pipelines pass Flax's FrozenDict.
    if type(tree) is dict or not isinstance(tree, Mapping):
        return tree
    return {key: _plain(branch) for key, branch in tree.items()}


@functools.lru_cache(maxsize=64)
def _abstract(component: Component, config: AutoencoderTinyConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Network(component, config, rngs=nnx.Rngs(0))))


def check_params(params: Params, expected: Params, component: Component) -> None:
    """Raise ValueError, with every difference, unless two trees have the same names and shapes."""
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
            f"{component} params do not fit the config: missing {missing}, unexpected "
            f"{unexpected}, mis-shaped {shapes}"
        )


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(k, simple=True, separator="."): np.shape(v) for k, v in leaves}

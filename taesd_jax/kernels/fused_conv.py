"""`fused_conv`: one operation, lowered in the form that suits the platform.

In half precision that is:

- CPU, TPU: sums, bias, skip and activation in float32, rounded once, which keeps the error at
  PyTorch's.
- CPU, where oneDNN serves: half precision throughout, as on a GPU.
- GPU: half precision throughout, so that cuDNN's fused kernels serve it. Asked for float32 sums,
  XLA runs TF32 convolutions with float32 in and out, in more than twice the time.
- One Hopper GPU: kernels of our own for 64 channels, and XLA's for all that they do not cover:
  gradients, other devices, programs that are exported.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..errors import warn
from .choice import is_covered
from .engine import SWITCH
from .forms import TO_SIGNED, ConvSpec, conv_in_float32, conv_in_half, fold_to_signed
from .rounding import is_half

half_conv_p = Primitive("half_conv")


def fused_conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    skip: jax.Array | None = None,
    *,
    spec: ConvSpec,
) -> jax.Array:
    """Return activation(convolution of x + bias + skip).

    Args:
        x: (n, h, w, c).
        kernel: (rows, columns, c, o), of any dtype.
        bias: (o,), of any dtype.
        skip: Of the shape of the result, of any dtype.
        spec: What is done.

    Returns:
        (n, h', w', o), in the dtype of x, or float32 where it is not rounded.
    """
    if not is_half(x.dtype):
        return conv_in_float32(x, kernel, bias, skip, spec=spec)
    arrays = [array for array in (x, kernel, bias, skip) if array is not None]
    return half_conv_p.bind(*arrays, spec=spec, has_bias=bias is not None)


def _named(form: Any, spec: ConvSpec, has_bias: bool) -> Any:
    """Return `form` as a function of the primitive's operands: x, kernel, then bias and skip."""

    def run(x: jax.Array, kernel: jax.Array, *rest: jax.Array) -> jax.Array:
        bias, skip = rest[:has_bias], rest[has_bias:]
        return form(x, kernel, *(bias or (None,)), *(skip or (None,)), spec=spec)

    return run


def _by_platform(*arrays: jax.Array, spec: ConvSpec, has_bias: bool) -> jax.Array:
    """Compute in operations that JAX can differentiate and map."""
    half = _named(conv_in_half, spec, has_bias)
    wide = _named(conv_in_float32, spec, has_bias)
    return lax.platform_dependent(*arrays, cuda=half, rocm=half, default=wide)


def _abstract_eval(*avals: Any, spec: ConvSpec, has_bias: bool) -> Any:
    # The type of what it stands for, shardings included.
    return jax.make_jaxpr(_named(conv_in_half, spec, has_bias))(*avals).out_avals[0]


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    tangents = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
    return jax.jvp(functools.partial(_by_platform, **params), primals, tangents)


def _batch(arrays: Any, axes: Any, *, spec: ConvSpec, has_bias: bool) -> Any:
    """Map as one larger batch where only activations are mapped, else as XLA does."""
    is_activation = [i not in (1, 1 + has_bias) for i in range(len(arrays))]
    if [axis is not None for axis in axes] != is_activation:
        run = functools.partial(_by_platform, spec=spec, has_bias=has_bias)
        return jax.vmap(run, in_axes=axes)(*arrays), 0
    size = arrays[0].shape[axes[0]]
    merged = []
    for array, axis, activations in zip(arrays, axes, is_activation, strict=True):
        if activations:
            array = jnp.moveaxis(array, axis, 0)
            array = array.reshape(-1, *array.shape[2:])
        merged.append(array)
    y = half_conv_p.bind(*merged, spec=spec, has_bias=has_bias)
    return y.reshape(size, -1, *y.shape[1:]), 0


def _lower(form: Any) -> Any:
    def rule(ctx: Any, *arrays: Any, spec: ConvSpec, has_bias: bool) -> Any:
        run = _named(form, spec, has_bias)
        return mlir.lower_fun(run, multiple_results=False)(ctx, *arrays)

    return rule


def _lower_for_cpu(ctx: Any, *arrays: Any, spec: ConvSpec, has_bias: bool) -> Any:
    form = conv_in_half if spec.engine.onednn else conv_in_float32
    return _lower(form)(ctx, *arrays, spec=spec, has_bias=has_bias)


def _lower_for_cuda(ctx: Any, *arrays: Any, spec: ConvSpec, has_bias: bool) -> Any:
    x, kernel = ctx.avals_in[:2]
    if is_covered(x, kernel, spec, has_skip=len(arrays) > 2 + has_bias) and _is_one_device(ctx):
        try:
            return _lower(_conv_on_hopper)(ctx, *arrays, spec=spec, has_bias=has_bias)
        except Exception as error:  # Pallas promises nothing about these kernels' API.
            warn(
                f"the kernels for Hopper GPUs could not be used, XLA's are: {error}; to leave them "
                f"out set {SWITCH}=0"
            )
    return _lower(conv_in_half)(ctx, *arrays, spec=spec, has_bias=has_bias)


def _is_one_device(ctx: Any) -> bool:
    """Return whether a program is run here, by one device or by each of several for itself.

    An exported program may run on any GPU, and XLA's partitioner cannot divide a kernel.
    """
    context = ctx.module_context
    if context.lowering_parameters.for_export:
        return False
    devices = getattr(context.axis_context, "num_devices", None)
    if devices is not None:
        return devices == 1
    mesh = context.axis_context.mesh
    return frozenset(context.axis_context.manual_axes) == frozenset(mesh.axis_names)


def _conv_on_hopper(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    skip: jax.Array | None,
    *,
    spec: ConvSpec,
) -> jax.Array:
    from . import hopper

    count = spec.engine.multiprocessors
    if spec.activation == TO_SIGNED:
        return hopper.conv_to_image(x, *fold_to_signed(kernel, bias), multiprocessors=count)
    if spec.upsample:
        return hopper.upsample_conv(x, kernel, multiprocessors=count)
    skip = None if skip is None else skip.astype(x.dtype)
    relu = spec.activation == "relu"
    return hopper.conv(x, kernel, bias, skip, relu=relu, multiprocessors=count)


half_conv_p.def_impl(_by_platform)
half_conv_p.def_abstract_eval(_abstract_eval)
ad.primitive_jvps[half_conv_p] = _jvp
batching.primitive_batchers[half_conv_p] = _batch
mlir.register_lowering(half_conv_p, _lower(conv_in_float32))
mlir.register_lowering(half_conv_p, _lower_for_cpu, platform="cpu")
mlir.register_lowering(half_conv_p, _lower(conv_in_half), platform="rocm")
mlir.register_lowering(half_conv_p, _lower_for_cuda, platform="cuda")

"""Gradients of kernels that are fast on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainings import TWO_STAGES

from taesd_jax import decode, init
from taesd_jax.kernels import conv_fast_kernel_grad, convolve

# Float32 sums of a few thousand terms, in another order. bfloat16 keeps 8 bits; one of the two sums
# in float32, the other rounds on the way.
TOLERANCE = {"float32": 2e-5, "bfloat16": 1e-2}


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding", "dtype"),
    [
        ((3, 9, 12, 5), (3, 3), 1, ((1, 1), (1, 1)), "float32"),
        ((3, 9, 12, 5), (3, 3), 1, ((1, 1), (1, 1)), "bfloat16"),
        ((1, 9, 12, 5), (3, 3), 2, ((1, 1), (1, 1)), "float32"),
        ((2, 8, 7, 5), (3, 3), 2, ((1, 1), (1, 1)), "bfloat16"),
        ((2, 8, 7, 5), (1, 1), 1, ((0, 0), (0, 0)), "float32"),
        ((2, 8, 7, 1), (3, 3), 1, ((0, 0), (1, 1)), "float32"),
        ((2, 5, 5, 5), (5, 5), 1, ((2, 2), (0, 0)), "float32"),
    ],
)
def test_fast_kernel_gradients_are_jaxs_own(shape, size, stride, padding, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), dtype)
    kernel = jnp.asarray(rng.normal(size=(*size, shape[-1], 6)), dtype)
    want, plain = jax.vjp(lambda x, k: convolve(x, k, stride, padding), x, kernel)
    got, quick = jax.vjp(lambda x, k: conv_fast_kernel_grad(x, k, stride, padding), x, kernel)
    assert np.array_equal(got, want)
    g = jnp.asarray(rng.normal(size=want.shape), want.dtype)
    for a, b in zip(jax.jit(quick)(g), jax.jit(plain)(g), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        a, b = np.asarray(a, "f4"), np.asarray(b, "f4")
        assert np.abs(a - b).max() < TOLERANCE[dtype] * np.abs(b).max()


def test_only_training_has_fast_kernel_gradients():
    params = init(jax.random.key(0), config=TWO_STAGES)
    x = jnp.zeros((1, 2, 2, 4))
    run = functools.partial(decode, params, config=TWO_STAGES)
    _, slope = jax.jit(lambda x: jax.jvp(run, (x,), (x + 1,)))(x)
    assert np.isfinite(slope).all()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(
            lambda x: conv_fast_kernel_grad(x, jnp.ones((1, 1, 4, 4)), 1, ((0, 0),) * 2), (x,), (x,)
        )

"""A convolution in half precision: what it becomes on each platform, and under transformations."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taesd_jax import VARIANTS, decode, encode
from taesd_jax.kernels import ConvSpec, fused_conv, round_to
from taesd_jax.kernels.forms import conv_in_float32, conv_in_half
from taesd_jax.model.functional import abstract_params

HALF = ("bfloat16", "float16")
# Of a value rounded once more, relative: half a unit in the last place of each dtype.
ROUNDING = {"bfloat16": 2**-8, "float16": 2**-11}


def lower(run, *shapes, platform="cuda"):
    return jax.jit(run).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def whole_model(name, component, dtype):
    """Return a function of (params, x) and the shapes of both."""
    config = VARIANTS[name]
    run, side, channels = decode, 64 // config.spatial_factor, config.latent_channels
    if component == "encoder":
        run, side, channels = encode, 64, 3
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, dtype), abstract_params(component, config)
    )
    x = jax.ShapeDtypeStruct((1, side, side, channels), dtype)
    return (lambda params, x: run({component: params}, x, config=config)), params, x


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("component", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["taesd", "taef2", "taesana"])
def test_on_gpus_a_model_stays_in_half_precision(name, component, dtype):
    text = lower(*whole_model(name, component, dtype))
    results = re.findall(r"stablehlo\.convolution.*-> tensor<\S*x(\w+)>", text)
    assert set(results) == {{"bfloat16": "bf16", "float16": "f16"}[dtype]}
    assert len(results) > 30
    assert "reduce_precision" not in text
    assert not re.search(r"dot_general.*f32", text)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_elsewhere_sums_are_float32_and_rounded_once(platform):
    text = lower(*whole_model("taesd", "decoder", "bfloat16"), platform=platform)
    results = re.findall(r"stablehlo\.convolution.*-> tensor<\S*x(\w+)>", text)
    assert Counter(results) == {"f32": 35}
    # Each convolution once, and the clamp.
    assert text.count("stablehlo.reduce_precision") == 36


FORMS = {
    "plain": (ConvSpec(), (3, 3, 8, 8), False, False),
    "bias, relu": (ConvSpec(activation="relu"), (3, 3, 8, 8), True, False),
    "bias, skip, relu": (ConvSpec(activation="relu"), (3, 3, 8, 8), True, True),
    "skip": (ConvSpec(), (1, 1, 8, 8), False, True),
    "silu": (ConvSpec(activation="silu"), (3, 3, 8, 8), True, False),
    "stride": (ConvSpec(stride=2), (3, 3, 8, 8), False, False),
    "no padding": (ConvSpec(padding=((0, 0), (1, 1))), (3, 3, 8, 8), True, False),
    "upsample": (ConvSpec(upsample=True), (3, 3, 8, 8), False, False),
    "upsample, cropped": (
        ConvSpec(upsample=True, padding=((0, 0), (1, 1)), crop=(1, 0)),
        (3, 3, 8, 8),
        False,
        False,
    ),
    "to image": (ConvSpec(activation="to_signed"), (3, 3, 8, 3), True, False),
    # With 8 channels, twice as many outputs (two mapped models) are summed in another order where a
    # processor has no AVX-512.
    "not rounded": (
        ConvSpec(padding=((0, 0), (0, 0)), rounded=False),
        (1, 1, 16, 16),
        False,
        False,
    ),
}


def arrays_of(form, dtype):
    spec, shape, has_bias, has_skip = FORMS[form]
    if shape[0] == 1:
        spec = ConvSpec(padding=((0, 0), (0, 0)), rounded=spec.rounded)
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    bias = draw(shape[-1]) if has_bias else None
    skip = draw(2, 6, 16, shape[3]) if has_skip else None
    return spec, (draw(2, 6, 16, shape[2]), draw(*shape) / 8, bias, skip)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_agree(form, dtype):
    spec, arrays = arrays_of(form, dtype)
    wide = conv_in_float32(*arrays, spec=spec).astype(jnp.float32)
    half = conv_in_half(*arrays, spec=spec).astype(jnp.float32)
    # Products with up to 72 terms, rounded after the sum, the bias and the skip.
    tolerance = 4 * ROUNDING[dtype] * float(jnp.abs(wide).max())
    np.testing.assert_allclose(half, wide, atol=tolerance, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_on_cpus_it_is_the_float32_form(form):
    spec, arrays = arrays_of(form, "bfloat16")
    got = jax.jit(lambda *arrays: fused_conv(*arrays, spec=spec))(*arrays)
    wanted = jax.jit(lambda *arrays: conv_in_float32(*arrays, spec=spec))(*arrays)
    assert got.dtype == wanted.dtype == (jnp.bfloat16 if spec.rounded else jnp.float32)
    assert (got == wanted).all()


@pytest.mark.parametrize("form", FORMS)
def test_mapped_over_examples_and_over_models(form):
    spec, (x, kernel, bias, skip) = arrays_of(form, "bfloat16")
    run = jax.jit(lambda *arrays: fused_conv(*arrays, spec=spec))
    whole = run(x, kernel, bias, skip)
    example_axes = (0, None, None, None if skip is None else 0)
    one = jax.vmap(
        lambda x, k, b, s: run(x[None], k, b, None if s is None else s[None])[0], example_axes
    )
    assert (one(x, kernel, bias, skip) == whole).all()
    both = jnp.stack([kernel, -kernel])
    models = jax.vmap(run, (None, 0, None, None))(x, both, bias, skip)
    assert (models[0] == whole).all()
    assert (models[1] == run(x, -kernel, bias, skip)).all()


def test_a_skip_shared_by_mapped_examples():
    spec, (x, kernel, bias, skip) = arrays_of("bias, skip, relu", "bfloat16")
    run = jax.jit(lambda x: fused_conv(x, kernel, bias, skip, spec=spec))
    both = jnp.stack([x, -x])
    assert (jax.vmap(run)(both) == jnp.stack([run(x), run(-x)])).all()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_float32_form(form):
    spec, (x, kernel, *rest) = arrays_of(form, "bfloat16")

    def gradients(run):
        def loss(x, kernel):
            return (run(x, kernel, *rest, spec=spec).astype(jnp.float32) ** 2).mean()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)

    for got, wanted in zip(gradients(fused_conv), gradients(conv_in_float32), strict=True):
        assert (got == wanted).all()


@pytest.mark.parametrize("dtype", HALF)
def test_rounding_is_to_nearest_even(dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(1000), jnp.float32)
    assert (jax.jit(lambda x: round_to(x, dtype))(x) == x.astype(dtype)).all()

"""Streaming gives the bits of the whole image, in memory that does not grow with its height."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SMALL, image, latent, random_model

import taesd_jax
from taesd_jax import VARIANTS, Plan, decode_streaming, encode_streaming, iter_decode, iter_encode

# One block a stage: all kinds of layers, and little to compile.
SHORT = SMALL.replace(num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))
# At sizes of a few rows XLA's CPU backend takes other products for other shapes. Float32 results of
# random models of about 1 then differ by rounding; at the sizes of pictures they are equal.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def short():
    params, config = random_model(SHORT)
    return jax.tree.map(jnp.asarray, params), config


@pytest.mark.parametrize(
    ("plan", "size", "dtype"),
    [
        (Plan(2, 8), (16, 5), "float32"),
        (Plan(1, 3), (7, 3), "bfloat16"),
        (Plan(0, 4), (16, 5), "bfloat16"),
        (Plan(3, 1), (7, 3), "float32"),
        (Plan(0, 4), (1, 1), "float32"),
    ],
    ids=str,
)
def test_every_plan_gives_the_whole_image(short, plan, size, dtype):
    params, config = short
    z = jnp.asarray(latent(config, size, n=2), dtype)
    # Heights and widths that 8 does not divide.
    x = jnp.asarray(image(config, (8 * size[0] - 3, 8 * size[1] - 7), n=2), dtype)
    for run, streamed, value in (
        (taesd_jax.decode, decode_streaming, z),
        (taesd_jax.encode, encode_streaming, x),
    ):
        whole = run(params, value, config=config)
        got = streamed(params, value, config=config, plan=plan)
        assert (got.shape, got.dtype) == (whole.shape, whole.dtype)
        if dtype == "bfloat16":
            np.testing.assert_array_equal(got, whole)
        else:
            np.testing.assert_allclose(got, whole, atol=ROUNDING, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taef2", "taesana"])
def test_every_variant_gives_the_bits_of_the_whole_image(name):
    # Its widths and activations; more blocks of the same would only be compiled longer.
    config = VARIANTS[name]
    config = config.replace(
        num_encoder_blocks=(1,) * len(config.num_encoder_blocks),
        num_decoder_blocks=(1,) * len(config.num_decoder_blocks),
    )
    params, _ = random_model(config)
    side = max(8, 128 // config.spatial_factor)
    z = latent(config, (side + 3, side))
    x = image(config, (8 * side + 5, 8 * side))
    np.testing.assert_array_equal(
        decode_streaming(params, z, config=config), taesd_jax.decode(params, z, config=config)
    )
    np.testing.assert_array_equal(
        encode_streaming(params, x, config=config), taesd_jax.encode(params, x, config=config)
    )


def test_rows_come_one_strip_after_another(short):
    params, config = short
    z = latent(config, (21, 4), n=2)
    strips = list(iter_decode(params, z, config=config, plan=Plan(1, 4)))
    assert [strip.shape[1] for strip in strips] == [36] + [32] * 4 + [4]
    whole = taesd_jax.decode(params, z, config=config)
    np.testing.assert_allclose(jnp.concatenate(strips, axis=1), whole, atol=ROUNDING, rtol=0)
    half = iter_decode(params, z, config=config, dtype=jnp.bfloat16)
    assert next(half).dtype == jnp.bfloat16


def test_force_upcast_streams_in_float32(short):
    params, config = short
    config = config.replace(force_upcast=True)
    z = jnp.asarray(latent(config, (9, 3)), jnp.bfloat16)
    streamed = decode_streaming(params, z, config=config)
    assert streamed.dtype == jnp.bfloat16
    # Float32 rounding can tip a last rounding to bfloat16; bfloat16 throughout moves half of them.
    assert jnp.mean(streamed != taesd_jax.decode(params, z, config=config)) < 0.005


def test_gradients_flow_through_strips(short):
    params, config = short
    z = jnp.asarray(latent(config, (9, 3)))

    def loss(run):
        return jax.jit(jax.grad(lambda z: jnp.sum(run(params, z, config=config) ** 2)))(z)

    # Sums of the same terms in another order; gradients here reach about 10.
    np.testing.assert_allclose(loss(decode_streaming), loss(taesd_jax.decode), rtol=1e-4, atol=1e-3)


def temporaries(run, shape, plan=None, config=VARIANTS["taesd"]):
    params = jax.eval_shape(lambda: taesd_jax.init(jax.random.key(0), config=config))
    options = {"plan": plan} if plan else {}
    lowered = jax.jit(lambda p, x: run(p, x, config=config, **options)).lower(
        params, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_temporaries_of_a_large_decode():
    shape = (1, 192, 192, 4)  # 1536x1536
    assert temporaries(decode_streaming, shape) <= 240e6
    assert temporaries(decode_streaming, shape, Plan(0, 4)) <= 110e6
    assert temporaries(taesd_jax.decode, shape) >= 1500e6


@pytest.mark.parametrize("run", [decode_streaming, encode_streaming])
def test_temporaries_do_not_grow_with_the_height(run):
    def at(rows):
        decoding = run is decode_streaming
        shape = (1, rows // 8, 16, 4) if decoding else (1, rows, 128, 3)
        return temporaries(run, shape, Plan(0, 4))

    assert at(16384) <= at(2048)


def test_operations_of_a_whole_decode():
    config = VARIANTS["taesd"]
    params = jax.eval_shape(lambda: taesd_jax.init(jax.random.key(0), config=config))
    lowered = jax.jit(lambda p, z: taesd_jax.decode(p, z, config=config)).lower(
        params, jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
    )
    # 141 GFLOP with plain convolutions behind the upsamples, by XLA's count.
    assert lowered.compile().cost_analysis()["flops"] <= 123e9


@pytest.mark.parametrize("plan", [Plan(4, 8), Plan(-1, 8), Plan(2, 0)], ids=str)
def test_a_plan_must_fit(short, plan):
    params, config = short
    with pytest.raises(ValueError, match="must have 0 to 3 whole stages and at least one row"):
        decode_streaming(params, latent(config, (4, 4)), config=config, plan=plan)
    for plan in (Plan(1, 2.5), Plan(1.0, 4)):
        with pytest.raises(TypeError, match="a plan must be two integers"):
            decode_streaming(params, latent(config, (4, 4)), config=config, plan=plan)
    pooled, config = random_model(SHORT.replace(pool_channels=16))
    with pytest.raises(ValueError, match="must have 1 to 3 whole stages"):
        iter_decode(pooled, latent(config, (4, 4)), config=config, plan=Plan(0, 8))


def test_wrong_arrays_are_refused_before_any_work(short):
    params, config = short
    for run in (decode_streaming, iter_decode):
        with pytest.raises(ValueError, match="looks like NCHW"):
            run(params, np.zeros((1, 4, 8, 8), np.float32), config=config)
    with pytest.raises(TypeError, match="image must be floating point"):
        encode_streaming(params, np.zeros((1, 8, 8, 3), np.uint8), config=config)


@pytest.mark.parametrize("pool", [0, 16], ids=["plain", "pooled"])
def test_rows_from_any_start(pool):
    params, config = random_model(SHORT.replace(pool_channels=pool))
    z, x = latent(config, (33, 4)), image(config, (263, 32))
    images = taesd_jax.decode(params, z, config=config)
    latents = taesd_jax.encode(params, x, config=config)
    for start in (131, 263):
        rows = list(iter_decode(params, z, config=config, start=start))
        got = jnp.concatenate(rows, axis=1)
        np.testing.assert_allclose(got, images[:, start:], atol=ROUNDING, rtol=0)
    for start in (17, 32):
        rows = list(iter_encode(params, x, config=config, start=start))
        got = jnp.concatenate(rows, axis=1)
        np.testing.assert_allclose(got, latents[:, start:], atol=ROUNDING, rtol=0)
    for start in (-1, 264, True, 1.0):
        with pytest.raises(ValueError, match="start must be a row from 0 to 263"):
            iter_decode(params, z, config=config, start=start)
    with pytest.raises(ValueError, match="start must be a row from 0 to 32"):
        iter_encode(params, x, config=config, start=33)


def test_strips_are_computed_where_the_arrays_are(short):
    params, config = short
    z, device = latent(config, (9, 3)), jax.devices()[1]
    there = jax.device_put(z, device)
    for some in (params, jax.device_put(params, device)):
        assert {strip.device for strip in iter_decode(some, there, config=config)} == {device}

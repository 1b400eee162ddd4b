"""Extreme numbers: the same bits each time, and what is broken stays where it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import POOLED, SHORT, image, latent, random_model

import taesd_jax
from taesd_jax import AutoencoderTiny, Strips, Tiles
from taesd_jax.io import to_uint8
from taesd_jax.strategies.sharding import replicate, shard_images

WAYS = {
    "full": {},
    "batches": {"batch_size": 2},
    "tiles": {"strategy": Tiles(3)},
    "strips": {"strategy": Strips(1, 2)},
}


@pytest.fixture(scope="module", params=[SHORT, POOLED], ids=["plain", "pooled"])
def model(request):
    params, config = random_model(request.param)
    return jax.tree.map(jnp.asarray, params), config


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_broken_image_leaves_the_others_alone(model, way, value):
    params, config = model
    z = latent(config, (5, 4), n=4)
    sound = np.asarray(taesd_jax.decode(params, z, config=config, **WAYS[way]))
    z[2, 1, 1, 0] = value
    got = np.asarray(taesd_jax.decode(params, z, config=config, **WAYS[way]))
    for i in (0, 1, 3):
        np.testing.assert_array_equal(got[i], sound[i])
    if np.isnan(value):
        # It cannot be written as a wrong image.
        with pytest.raises(ValueError, match="image has NaN or infinity"):
            to_uint8(got[2])


def test_one_broken_image_of_a_sharded_batch(model):
    params, config = model
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    params = jax.device_put(params, replicate(mesh))
    z = latent(config, (3, 2), n=4)
    run = jax.jit(lambda p, z: taesd_jax.decode(p, z, config=config))
    where = shard_images(mesh, batch="batch")
    sound = np.asarray(run(params, jax.device_put(z, where)))
    z[1] = np.nan
    got = np.asarray(run(params, jax.device_put(z, where)))
    assert np.isnan(got[1]).any()
    for i in (0, 2, 3):
        np.testing.assert_array_equal(got[i], sound[i])


@pytest.mark.parametrize("way", WAYS)
def test_calls_are_repeatable(model, way):
    params, config = model
    z = latent(config, (5, 4), n=2)
    run = functools.partial(taesd_jax.decode, params, z, config=config, **WAYS[way])
    first = np.asarray(run())
    for _ in range(3):
        np.testing.assert_array_equal(run(), first)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_large_and_small_latents_decode(model, dtype, scale):
    params, config = model
    # The decoder begins with 3 tanh(x / 3): nothing behind it depends on how large a latent is.
    z = jnp.asarray(latent(config, (3, 4)) * np.float32(scale), dtype)
    got = taesd_jax.decode(params, z, config=config)
    assert np.isfinite(np.asarray(got, "f4")).all()
    if scale > 1:
        ends = taesd_jax.decode(params, jnp.sign(z) * 100, config=config)
        np.testing.assert_allclose(np.asarray(got, "f4"), np.asarray(ends, "f4"), atol=2e-2)


def test_denormal_latents_are_zeros(model):
    params, config = model
    z = np.full((1, 3, 4, 4), 1e-42, np.float32)
    got = taesd_jax.decode(params, z, config=config)
    np.testing.assert_array_equal(got, taesd_jax.decode(params, np.zeros_like(z), config=config))


def test_float16_overflows_to_what_cannot_be_written(model):
    params, config = model
    # Activations above 65504 have no float16.
    params = jax.tree.map(lambda p: p * 40, params)
    x = jnp.asarray(image(config, (16, 16)), jnp.float16)
    latents = taesd_jax.encode(params, x, config=config)
    assert latents.dtype == jnp.float16
    assert not np.isfinite(np.asarray(latents)).all()
    upcast = AutoencoderTiny(params, config.replace(force_upcast=True))
    assert np.isfinite(np.asarray(upcast.encode(x.astype(jnp.float32)).latents)).all()
    in_range = taesd_jax.encode(params, x.astype(jnp.bfloat16), config=config)
    assert np.isfinite(np.asarray(in_range, "f4")).all()


@pytest.mark.weights
def test_float16_holds_what_the_published_models_compute(published, photos):
    for name in ("taesd", "taesdxl", "taesd3", "taef1"):
        vae = AutoencoderTiny.from_pretrained(published / name)
        picture = photos["astronaut"][:128, :128][None]
        wide = vae.encode(picture).latents
        narrow = vae.encode(picture.astype(np.float16)).latents
        assert narrow.dtype == jnp.float16
        assert float(jnp.abs(wide - narrow.astype(jnp.float32)).mean()) < 5e-3
        back = vae.decode(narrow).sample
        assert np.isfinite(np.asarray(back)).all()

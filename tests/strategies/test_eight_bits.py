"""Images of 8 bits made on the device are those that the host makes of the float images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SMALL, latent, random_model, with_thumbnails

import taesd_jax
from taesd_jax import AutoencoderTiny, Full, Strips, Tiles
from taesd_jax.io.images import to_uint8
from taesd_jax.model.functional import quantize


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "options",
    [
        {"strategy": Full()},
        {"strategy": Strips()},
        {"strategy": Tiles(4)},
        {"batch_size": 1},
        {"scale": 1 / 4},
    ],
    ids=str,
)
def test_every_strategy(options, dtype):
    params, config = random_model(SMALL)
    params = with_thumbnails(params, config)
    z = jnp.asarray(2 * latent(SMALL, (9, 7), n=2))  # some values leave [-1, 1]
    options = {"config": config, "dtype": dtype, **options}
    images = taesd_jax.decode(params, z, **options)
    pixels = taesd_jax.decode(params, z, out_dtype="uint8", **options)
    assert pixels.dtype == jnp.uint8
    assert (np.asarray(pixels) == to_uint8(np.asarray(images))).all()
    assert {0, 255} <= set(np.unique(pixels))


def test_rows_one_after_another():
    params, config = random_model(SMALL)
    z = latent(SMALL, (9, 7))
    rows = list(taesd_jax.iter_decode(params, z, config=config, out_dtype="uint8"))
    expected = to_uint8(np.asarray(taesd_jax.decode(params, z, config=config)))
    assert (np.concatenate(rows, axis=1) == expected).all()


def test_the_model():
    vae = AutoencoderTiny(*random_model(SMALL))
    z = latent(SMALL, (9, 7))
    expected = to_uint8(np.asarray(vae.decode(z).sample))
    assert (np.asarray(vae.decode(z, out_dtype="uint8").sample) == expected).all()
    compiled = vae.compile(z.shape, out_dtype="uint8")
    assert (np.asarray(compiled(vae, z)) == expected).all()


def test_every_value_and_what_lies_between():
    exact = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    between = (np.arange(255, dtype=np.float32) + np.float32(0.5)) / np.float32(127.5) - 1
    values = np.concatenate([exact, between, [-7, 7, -1, 1, np.inf, -np.inf]]).astype(np.float32)
    finite = np.nan_to_num(values, posinf=2, neginf=-2)
    assert (np.asarray(jax.jit(quantize)(values)) == to_uint8(finite)).all()
    assert int(quantize(jnp.array(jnp.nan))) == 0


def test_what_cannot_be_asked_for():
    params, config = random_model(SMALL)
    with pytest.raises(TypeError, match="int8"):
        taesd_jax.decode(params, latent(SMALL, (2, 2)), config=config, out_dtype="int8")

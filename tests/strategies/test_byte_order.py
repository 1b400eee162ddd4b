"""NumPy inputs of every kind give what native arrays give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from models import SMALL, latent, random_model

import taesd_jax
from taesd_jax import AutoencoderTiny, Full, Strips, Tiles


@pytest.mark.parametrize("strategy", [Full(), Strips(), Tiles(4)], ids=str)
def test_byte_order(strategy):
    params, config = random_model(SMALL)
    z = np.asarray(latent(SMALL, (9, 7)))

    def run(z):
        return taesd_jax.decode(params, z, config=config, strategy=strategy)

    expected = run(z)
    for _ in range(3):  # JAX calls what it has compiled by another, faster way
        assert (run(z) == expected).all()
    assert (run(z.astype(">f4")) == expected).all()
    assert (run(z.astype("<f4")) == expected).all()


@pytest.mark.parametrize("full_stages", [0, 1])
def test_byte_order_of_rows(full_stages):
    params, config = random_model(SMALL)
    z = np.asarray(latent(SMALL, (9, 7)))

    def rows(z):
        strips = Strips(full_stages)
        made = taesd_jax.iter_decode(params, z, config=config, strategy=strips)
        return np.concatenate([np.asarray(strip) for strip in made], axis=1)

    expected = rows(z)
    assert (rows(z) == expected).all()
    assert (rows(z.astype(">f4")) == expected).all()


def test_float64_is_float32_unless_jax_is_told():
    vae = AutoencoderTiny(*random_model(SMALL))
    z = np.asarray(latent(SMALL, (4, 4)))
    wide = vae.decode(z.astype(np.float64)).sample
    assert wide.dtype == jnp.float32
    assert (wide == vae.decode(z).sample).all()


@pytest.mark.parametrize("strategy", [Strips(), Tiles(4)], ids=str)
def test_symbolic_sizes_run_in_full(strategy):
    params, config = random_model(SMALL)
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, h, w, 4"), jnp.float32)
    run = jax.jit(lambda z: taesd_jax.decode(params, z, config=config, strategy=strategy))
    with pytest.raises(ValueError, match=r"symbolic sizes run with strategy=Full\(\)"):
        export.export(run)(shape)

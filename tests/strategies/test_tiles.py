"""Tiles give the bits of the full image, from one program for every size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import ROUNDING, SHORT, compiled, image, latent, random_model

from taesd_jax import VARIANTS, Full, Tiles, decode, encode


@pytest.fixture(scope="module", params=[0, 16], ids=["plain", "pooled"])
def short(request):
    params, config = random_model(SHORT.replace(pool_channels=request.param))
    return jax.tree.map(jnp.asarray, params), config


@pytest.mark.parametrize(
    ("size", "batch_size", "dtype"),
    [((1, 1), 1, "float32"), ((3, 9), 3, "bfloat16"), ((8, 5), None, "float32")],
    ids=["1x1", "3x9", "8x5"],
)
def test_tiles_give_the_full_image(short, size, batch_size, dtype):
    params, config = short
    z = jnp.asarray(latent(config, size, n=2), dtype)
    # Heights and widths that 8 does not divide.
    x = jnp.asarray(image(config, (8 * size[0] - 3, 8 * size[1] - 7), n=2), dtype)
    options = {"config": config, "strategy": Tiles(4), "batch_size": batch_size}
    for run, value in ((decode, z), (encode, x)):
        full = run(params, value, config=config)
        got = run(params, value, **options)
        inside = jax.jit(lambda p, v, run=run: run(p, v, **options))(params, value)
        for other in (got, inside):
            assert (other.shape, other.dtype) == (full.shape, full.dtype)
            if dtype == "bfloat16":
                np.testing.assert_array_equal(other, full)
            else:
                np.testing.assert_allclose(other, full, atol=ROUNDING, rtol=0)


def test_one_program_serves_every_size(short):
    params, config = short
    if config.pool_channels:
        pytest.skip("a norm over the whole image is compiled for each size")
    decode(params, latent(config, (3, 3)), config=config, strategy=Tiles(5))
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("logging.Logger.handle", lambda self, record: compiled.append(record))
        for size in ((1, 1), (9, 4), (5, 17)):
            decode(params, latent(config, size), config=config, strategy=Tiles(5))
    assert not [r for r in compiled if "Finished XLA compilation" in r.getMessage()]


def test_the_operations_of_a_tile_are_few_more_than_its_pixels_need():
    def operations(strategy):
        program = compiled(decode, VARIANTS["taesd"], (1, 64, 64, 4), strategy=strategy)
        return program.cost_analysis()["flops"]

    assert operations(Tiles(64)) <= 1.25 * operations(Full())


def test_tiles_of_closed_over_arrays_inside_jit(short):
    params, config = short
    z = jnp.asarray(latent(config, (5, 3)))
    got = jax.jit(lambda: decode(params, z, config=config, strategy=Tiles(4)))()
    want = decode(params, z, config=config, strategy=Tiles(4))
    np.testing.assert_allclose(got, want, atol=ROUNDING, rtol=0)


def test_tiles_are_computed_where_the_arrays_are(short):
    params, config = short
    z, device = latent(config, (5, 3)), jax.devices()[1]
    tiled = functools.partial(decode, config=config, strategy=Tiles())
    assert tiled(params, jax.device_put(z, device)).device == device
    assert tiled(jax.device_put(params, device), z).device == device
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.NamedSharding(mesh, jax.P())
    got = tiled(*jax.device_put((params, z), everywhere))
    assert got.sharding.is_equivalent_to(everywhere, 4)

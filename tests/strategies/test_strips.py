"""Strips give the bits of the full image, in memory that does not grow with its height."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import ROUNDING, SHORT, compiled, image, latent, random_model, temporaries

from taesd_jax import VARIANTS, Strips, Tiles, decode, encode, iter_decode, iter_encode

TAESD = VARIANTS["taesd"]
# No full stages.
IN_ROWS = Strips(0, 4)


@pytest.fixture(scope="module")
def short():
    params, config = random_model(SHORT)
    return jax.tree.map(jnp.asarray, params), config


@pytest.mark.parametrize(
    ("strips", "size", "dtype"),
    [
        (Strips(2, 8), (16, 5), "float32"),
        (Strips(1, 3), (7, 3), "bfloat16"),
        (Strips(0, 4), (16, 5), "bfloat16"),
        (Strips(3, 1), (7, 3), "float32"),
        (Strips(0, 4), (1, 1), "float32"),
    ],
    ids=str,
)
def test_all_strips_give_the_full_image(short, strips, size, dtype):
    params, config = short
    z = jnp.asarray(latent(config, size, n=2), dtype)
    # Heights and widths that 8 does not divide.
    x = jnp.asarray(image(config, (8 * size[0] - 3, 8 * size[1] - 7), n=2), dtype)
    for run, value in ((decode, z), (encode, x)):
        full = run(params, value, config=config)
        got = run(params, value, config=config, strategy=strips)
        assert (got.shape, got.dtype) == (full.shape, full.dtype)
        if dtype == "bfloat16":
            np.testing.assert_array_equal(got, full)
        else:
            np.testing.assert_allclose(got, full, atol=ROUNDING, rtol=0)


def test_rows_come_one_strip_after_another(short):
    params, config = short
    z = latent(config, (21, 4), n=2)
    strips = list(iter_decode(params, z, config=config, strategy=Strips(1, 4)))
    assert [strip.shape[1] for strip in strips] == [36] + [32] * 4 + [4]
    full = decode(params, z, config=config)
    np.testing.assert_allclose(jnp.concatenate(strips, axis=1), full, atol=ROUNDING, rtol=0)
    low = iter_decode(params, z, config=config, dtype=jnp.bfloat16)
    assert next(low).dtype == jnp.bfloat16


def test_two_programs_serve_every_height(short):
    params, config = short
    compiled = []
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.Logger.handle", lambda self, record: compiled.append(record))
        for height, programs in ((9, 2), (21, 0), (40, 0)):  # the first strip and the others
            compiled.clear()
            list(iter_decode(params, latent(config, (height, 3)), config=config, strategy=IN_ROWS))
            done = [r for r in compiled if "compilation of jit(_strip)" in r.getMessage()]
            assert len(done) == programs


def test_force_upcast_runs_strips_in_float32(short):
    params, config = short
    config = config.replace(force_upcast=True)
    z = jnp.asarray(latent(config, (9, 3)), jnp.bfloat16)
    got = decode(params, z, config=config, strategy=Strips())
    assert got.dtype == jnp.bfloat16
    # Float32 rounding can tip a last rounding to bfloat16; bfloat16 throughout moves half of them.
    assert jnp.mean(got != decode(params, z, config=config)) < 0.005


@pytest.mark.slow
def test_temporaries_of_a_large_decode():
    shape = (1, 192, 192, 4)  # 1536x1536
    assert temporaries(decode, TAESD, shape, strategy=Strips()) <= 240e6
    assert temporaries(decode, TAESD, shape, strategy=IN_ROWS) <= 110e6
    assert temporaries(decode, TAESD, shape) >= 1500e6


@pytest.mark.parametrize("run", [decode, encode])
def test_temporaries_do_not_grow_with_the_height(run):
    def at(rows):
        shape = (1, rows // 8, 16, 4) if run is decode else (1, rows, 128, 3)
        return temporaries(run, TAESD, shape, strategy=IN_ROWS)

    assert at(16384) <= at(2048)


def test_operations_of_a_full_decode():
    # 141 GFLOP with plain convolutions behind the upsamples, by XLA's count.
    program = compiled(decode, TAESD, (1, 64, 64, 4))
    assert program.cost_analysis()["flops"] <= 123e9


def test_strips_must_fit(short):
    params, config = short
    z = latent(config, (4, 4))
    with pytest.raises(ValueError, match=r"must have 0 to 3 full stages, got Strips\("):
        decode(params, z, config=config, strategy=Strips(4, 8))
    for values in ((-1, 8), (2, 0)):
        with pytest.raises(ValueError, match=r"(full_stages|rows) must be an? .*integer"):
            Strips(*values)
    for values in ((1, 2.5), (1.0, 4), (True, 4)):
        with pytest.raises(TypeError, match=r"(full_stages|rows) must be an? .*integer"):
            Strips(*values)
    pooled, config = random_model(SHORT.replace(pool_channels=16))
    with pytest.raises(ValueError, match="must have 1 to 3 full stages"):
        iter_decode(pooled, z, config=config, strategy=Strips(0, 8))
    for wrong in (Strips, "strips", 4):
        with pytest.raises(TypeError, match=r"strategy must be Full\(\), Strips\(\) or Tiles\(\)"):
            decode(params, z, config=config, strategy=wrong)
    with pytest.raises(TypeError, match=r"strategy must be Strips\(\), got Tiles"):
        iter_decode(params, z, config=config, strategy=Tiles())
    with pytest.raises(TypeError, match=r"strategy must be Strips\(\), got Tiles"):
        iter_encode(params, image(config, (32, 32)), config=config, strategy=Tiles())


@pytest.mark.parametrize("pool", [0, 16], ids=["plain", "pooled"])
def test_rows_from_any_start(pool):
    params, config = random_model(SHORT.replace(pool_channels=pool))
    z, x = latent(config, (33, 4)), image(config, (263, 32))
    images, latents = decode(params, z, config=config), encode(params, x, config=config)
    for start in (131, np.int64(263)):
        rows = list(iter_decode(params, z, config=config, start=start))
        got = jnp.concatenate(rows, axis=1)
        np.testing.assert_allclose(got, images[:, start:], atol=ROUNDING, rtol=0)
    for start in (17, 32):
        rows = list(iter_encode(params, x, config=config, start=start))
        got = jnp.concatenate(rows, axis=1)
        np.testing.assert_allclose(got, latents[:, start:], atol=ROUNDING, rtol=0)
    with pytest.raises(ValueError, match="start must be a row from 0 to 263"):
        iter_decode(params, z, config=config, start=264)
    for start, error in ((-1, ValueError), (True, TypeError), (1.0, TypeError)):
        with pytest.raises(error, match="start must be an integer of at least 0"):
            iter_decode(params, z, config=config, start=start)
    with pytest.raises(ValueError, match="start must be a row from 0 to 32"):
        iter_encode(params, x, config=config, start=33)


def test_strips_are_computed_where_the_arrays_are(short):
    params, config = short
    z, device = latent(config, (9, 3)), jax.devices()[1]
    there = jax.device_put(z, device)
    for some in (params, jax.device_put(params, device)):
        assert {strip.device for strip in iter_decode(some, there, config=config)} == {device}

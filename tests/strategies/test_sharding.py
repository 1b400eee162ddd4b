"""Many devices give what one gives, and exchange no more than edges."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from models import POOLED, ROUNDING, SHORT, image, latent, random_model

import taesd_jax
from taesd_jax import AutoencoderTiny, Strips, Tiles
from taesd_jax.strategies.sharding import replicate, shard_images


def mesh_of(kind):
    return jax.make_mesh((4, 2), ("batch", "rows"), axis_types=(kind, kind))


def run_of(component, config, **options):
    run = taesd_jax.decode if component == "decoder" else taesd_jax.encode
    return jax.jit(lambda params, x: run(params, x, config=config, **options))


def input_of(component, config):
    return latent(config, (16, 3), n=4) if component == "decoder" else image(config, (128, 20), n=4)


@pytest.mark.parametrize(
    ("config", "axes"),
    [
        (SHORT, ("rows",)),
        (SHORT, ("batch", "rows")),
        (POOLED, ("batch", "rows")),
    ],
    ids=["rows", "both", "pooled"],
)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_many_devices_give_what_one_gives(config, component, kind, axes):
    params, config = random_model(config)
    mesh, x = mesh_of(kind), input_of(component, config)
    where = shard_images(mesh, **{axis: axis for axis in axes})
    run = run_of(component, config)
    everywhere = jax.device_put(params, replicate(mesh))
    compiled = run.lower(everywhere, jax.device_put(x, where)).compile()
    result = compiled(everywhere, jax.device_put(x, where))
    np.testing.assert_allclose(result, run(params, x), atol=ROUNDING, rtol=0)
    assert result.sharding.is_equivalent_to(where, 4)
    text = compiled.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    assert ("all-reduce" in text) == (config.pool_channels > 0 and "rows" in axes)


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_work_is_divided(component):
    params, config = random_model(SHORT)
    mesh, run, x = mesh_of(AxisType.Auto), run_of(component, config), input_of(component, config)

    def operations(params, x):
        return run.lower(params, x).compile().cost_analysis()["flops"]

    where = shard_images(mesh, batch="batch", rows="rows")
    one = operations(params, x)
    part = operations(jax.device_put(params, replicate(mesh)), jax.device_put(x, where))
    # An eighth, and what the edges take.
    assert one / 8 <= part <= 1.1 * one / 8


def test_sharded_params():
    params, config = random_model(SHORT)
    mesh, z = mesh_of(AxisType.Auto), latent(SHORT, (4, 3), n=4)

    def spread(leaf):
        axis = "rows" if leaf.shape[-1] % 2 == 0 else None
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), axis)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    run = run_of("decoder", config)
    got = run(jax.tree.map(spread, params), jax.device_put(z, shard_images(mesh, batch="batch")))
    np.testing.assert_allclose(got, run(params, z), atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(
    ("component", "strategy", "kind"),
    [
        ("decoder", Strips(), AxisType.Auto),
        ("decoder", Tiles(4), AxisType.Explicit),
        ("encoder", Strips(), AxisType.Explicit),
        ("encoder", Tiles(4), AxisType.Auto),
    ],
)
def test_strips_and_tiles_keep_a_batch_where_it_is(component, strategy, kind):
    params, config = random_model(SHORT)
    mesh, x = mesh_of(kind), input_of(component, config)
    where = shard_images(mesh, batch="batch")
    run = run_of(component, config, strategy=strategy)
    arguments = jax.device_put(params, replicate(mesh)), jax.device_put(x, where)
    compiled = run.lower(*arguments).compile()
    result = compiled(*arguments)
    np.testing.assert_allclose(result, run_of(component, config)(params, x), atol=ROUNDING, rtol=0)
    assert result.sharding.is_equivalent_to(where, 4)
    assert "all-gather" not in compiled.as_text()


def test_the_model_lies_on_a_mesh():
    params, config = random_model(SHORT)
    mesh, z = mesh_of(AxisType.Auto), latent(SHORT, (4, 3), n=4)
    vae = jax.device_put(AutoencoderTiny(params, config), replicate(mesh))
    where = shard_images(mesh, batch="batch", rows="rows")
    images = vae.decode(jax.device_put(z, where)).sample
    assert images.sharding.is_equivalent_to(where, 4)
    want = taesd_jax.decode(params, z, config=config)
    np.testing.assert_allclose(images, want, atol=ROUNDING, rtol=0)
    assert vae.encode(images).latents.sharding.is_equivalent_to(where, 4)


def test_axes_must_be_of_the_mesh():
    mesh = mesh_of(AxisType.Auto)
    for options in ({}, {"batch": "data"}):
        with pytest.raises(ValueError, match=r"must name different axes of \('batch', 'rows'\)"):
            shard_images(mesh, **options)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_slices_and_tiles_of_a_sharded_batch(kind):
    params, config = random_model(SHORT)
    mesh = mesh_of(kind)
    where = shard_images(mesh, batch="batch")
    vae = AutoencoderTiny(jax.device_put(params, replicate(mesh)), config)
    z = latent(config, (6, 5), n=4)
    want, spread = vae.decode(z).sample, jax.device_put(z, where)
    vae.enable_slicing()
    sliced = vae.decode(spread).sample
    assert sliced.sharding.is_equivalent_to(where, 4)
    np.testing.assert_allclose(sliced, want, atol=ROUNDING, rtol=0)
    some = taesd_jax.decode(vae.params, spread, config=config, batch_size=1)
    np.testing.assert_allclose(some, want, atol=ROUNDING, rtol=0)
    vae.enable_tiling(4)
    assert vae.strategy("decoder", spread).strategy == Tiles(4)
    np.testing.assert_allclose(vae.decode(spread).sample, want, atol=ROUNDING, rtol=0)


def test_one_axis_is_not_both():
    with pytest.raises(ValueError, match="must name different axes"):
        shard_images(mesh_of(AxisType.Auto), batch="rows", rows="rows")

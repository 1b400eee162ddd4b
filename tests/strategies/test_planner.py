"""The planner stays within its budget, and what it chooses changes no result."""

import copy
import pickle
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SHORT, SMALL, image, latent, random_model, temporaries

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny, Full, Strips, Tiles
from taesd_jax.model.functional import Computation
from taesd_jax.strategies.memory import estimate_bytes
from taesd_jax.strategies.planner import Limits, choose, default_budget
from taesd_jax.strategies.strategy import resolve_strategy


def execution(component, side, budget, platform="cpu", config=VARIANTS["taesd"], n=1):
    shape = (n, side, side, config.latent_channels if component == "decoder" else 3)
    computation = Computation(component, config.architecture, "float32", "float32")
    return choose(computation, shape, platform, Limits(budget))


@pytest.mark.parametrize(
    ("component", "side", "platform", "budget", "strategy"),
    [
        ("decoder", 16, "cpu", 10**9, Full),
        ("decoder", 64, "cpu", 10**9, Strips),
        ("encoder", 1024, "cpu", 10**9, Strips),
        ("decoder", 64, "gpu", 10**9, Full),
        ("decoder", 1024, "gpu", 10**9, Tiles),
        ("encoder", 16384, "cpu", 10**9, Tiles),
        # Nothing fits: the smallest.
        ("decoder", 64, "gpu", 0, Strips),
    ],
)
def test_the_fastest_strategy_that_fits(component, side, platform, budget, strategy):
    chosen = execution(component, side, budget, platform)
    assert type(chosen.strategy) is strategy
    assert chosen.temporary_bytes <= budget or budget == 0


def test_a_batch_is_cut_before_an_image_is():
    one = execution("decoder", 64, 10**10, "gpu").temporary_bytes
    assert execution("decoder", 64, 8 * one, "gpu", n=8).batch_size is None
    chosen = execution("decoder", 64, 3 * one, "gpu", n=8)
    assert (chosen.strategy, chosen.batch_size) == (Full(), 1)


def test_stages_that_need_the_full_image_run_in_full():
    chosen = execution("decoder", 128, 0, config=VARIANTS["taef2"])
    assert chosen.strategy.full_stages == 1


@pytest.mark.parametrize(
    ("name", "component"),
    [("taesd", "encoder"), ("taesd", "decoder"), ("taef2", "decoder"), ("taesana", "encoder")],
)
def test_estimates_cover_what_xla_counts(name, component):
    config = VARIANTS[name]
    factor = config.spatial_factor
    size = (512 // factor, 768 // factor) if component == "decoder" else (512, 768)
    shape = (1, *size, config.latent_channels if component == "decoder" else 3)
    run = taesd_jax.decode if component == "decoder" else taesd_jax.encode
    for dtype in ("float32", "bfloat16"):
        counted = temporaries(run, config, shape, dtype)
        assert counted <= estimate_bytes(Full(), component, size, config) <= 3 * counted
    strips = resolve_strategy(Strips(), component, config)
    counted = temporaries(run, config, shape, "float32", strategy=strips)
    assert counted <= estimate_bytes(strips, component, size, config) <= 6 * counted


def test_the_estimate_of_a_tile_covers_what_xla_counts():
    config = VARIANTS["taesd"]
    for run, component, shape in (
        (taesd_jax.decode, "decoder", (1, 64, 64, 4)),
        (taesd_jax.encode, "encoder", (1, 512, 512, 3)),
    ):
        counted = temporaries(run, config, shape, "float32", strategy=Tiles())
        # In one program the tiles are put together there too.
        result = 4 * shape[1] * shape[2] * (64 * 3 if component == "decoder" else 3)
        estimate = estimate_bytes(Tiles(), component, shape[1:3], config)
        assert counted <= estimate + result
        assert estimate <= 4 * counted


@pytest.fixture(scope="module")
def vae():
    params, config = random_model(SHORT)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config)


def test_what_it_chooses_changes_no_result(vae):
    z, x = latent(SHORT, (40, 32), n=2), image(SHORT, (317, 250), n=2)
    assert vae.strategy("decoder", z) == vae.strategy("decoder", jnp.asarray(z))
    for component, value in (("decoder", z), ("encoder", x)):
        assert type(vae.strategy(component, value).strategy) is Strips
    images = taesd_jax.decode(vae.params, z, config=vae.config)
    latents = taesd_jax.encode(vae.params, x, config=vae.config)
    # Different products for different shapes, as for strips.
    np.testing.assert_allclose(vae.decode(z).sample, images, atol=2e-5, rtol=0)
    np.testing.assert_allclose(vae.encode(x).latents, latents, atol=2e-5, rtol=0)
    jitted = jax.jit(lambda vae, z: vae.decode(z).sample)(vae, z)
    np.testing.assert_allclose(jitted, images, atol=2e-5, rtol=0)


def test_the_budget_is_the_users(vae):
    vae = AutoencoderTiny(vae.params, VARIANTS["taesd"], memory_budget=0)
    z = jax.ShapeDtypeStruct((1, 1024, 1024, 4), jnp.float32)
    smallest = vae.strategy("decoder", z)
    vae.memory_budget = 2**40
    assert vae.strategy("decoder", z).temporary_bytes > smallest.temporary_bytes


def test_the_default_budget_is_a_share_of_all_memory():
    for used in (0, 2**33):
        stats = {"bytes_limit": 2**34, "bytes_in_use": used}
        device = types.SimpleNamespace(memory_stats=lambda stats=stats: stats)
        assert default_budget(device) == 2**31
    assert default_budget(jax.devices()[0]) > 0


def test_the_choice_is_the_same_after_every_copy(vae):
    z = jax.ShapeDtypeStruct((8, 512, 512, 4), jnp.float32)
    vae = AutoencoderTiny(vae.params, vae.config, memory_budget=2**28)
    vae.enable_slicing(2)
    leaves, tree = jax.tree.flatten(vae)
    chosen, before = vae.strategy("decoder", z), pickle.dumps(vae)
    for other in (vae, copy.deepcopy(vae), pickle.loads(before), jax.tree.unflatten(tree, leaves)):
        assert other.strategy("decoder", z) == chosen
    # Nothing is remembered that would travel.
    assert pickle.dumps(vae) == before
    assert jax.tree.structure(vae) == tree


def test_questions_that_make_no_sense_are_refused(vae):
    z = latent(SHORT, (4, 4))
    with pytest.raises(ValueError, match="component must be one of"):
        vae.strategy("middle", z)
    with pytest.raises(ValueError, match="image must be"):
        vae.strategy("encoder", z)
    for budget in ("1GB", -1, True, float("nan")):
        error = ValueError if budget == -1 else TypeError
        with pytest.raises(error, match="memory_budget must be an integer of at least 0"):
            AutoencoderTiny(vae.params, vae.config, memory_budget=budget)
        vae.memory_budget = budget
        with pytest.raises(error, match="memory_budget must be an integer of at least 0"):
            vae.decode(z)
    vae.memory_budget = np.int64(2**20)
    assert vae.decode(z).sample.shape == (1, 32, 32, 3)
    vae.memory_budget = None


def test_tiles_take_the_slices_that_were_asked_for():
    vae = AutoencoderTiny(*random_model(SHORT))
    z = latent(SHORT, (4, 4), n=4)
    vae.enable_tiling(2)
    assert vae.strategy("decoder", z).batch_size == 1
    vae.enable_slicing(2)
    assert vae.strategy("decoder", z).batch_size == 2
    vae.enable_slicing(4)
    assert vae.strategy("decoder", z).batch_size is None


@pytest.mark.parametrize(
    ("dtype", "platform", "share"),
    [
        ("float64", "cpu", 2),
        ("float64", "gpu", 2),
        ("bfloat16", "gpu", 0.5),
        ("float16", "gpu", 0.5),
        ("bfloat16", "cpu", 1),
        ("bfloat16", "tpu", 1),
    ],
)
def test_memory_depends_on_dtype_and_platform(dtype, platform, share):
    other, plain = (
        choose(Computation("decoder", SMALL, name, name), (1, 64, 64, 4), platform, Limits())
        for name in (dtype, "float32")
    )
    assert type(other.strategy) is type(plain.strategy)
    assert other.temporary_bytes == pytest.approx(share * plain.temporary_bytes, abs=1)


def test_a_traced_batch_is_not_cut(vae):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("batch"))
    z = jax.device_put(latent(SHORT, (40, 32), n=8), rows)
    seen = []
    run = jax.jit(lambda vae, z: (seen.append(vae.strategy("decoder", z)), vae.decode(z).sample)[1])
    compiled = run.lower(jax.device_put(vae, jax.NamedSharding(mesh, jax.P())), z).compile()
    assert type(seen[0].strategy) is Strips
    assert seen[0].batch_size is None
    assert "all-gather" not in compiled.as_text()
    assert compiled.output_shardings.is_equivalent_to(rows, 4)


def test_sharded_and_rematerialised_images_run_in_full(vae):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    z = jnp.zeros((8, 64, 64, 4))
    spread = jax.device_put(z, jax.NamedSharding(mesh, jax.P("batch")))
    chosen = vae.strategy("decoder", spread)
    assert (chosen.strategy, chosen.batch_size) == (Full(), None)
    everywhere = jax.device_put(z, jax.NamedSharding(mesh, jax.P()))
    for value in (z, everywhere):
        assert type(vae.strategy("decoder", value).strategy) is Strips
    vae.enable_gradient_checkpointing()
    assert vae.strategy("decoder", z).strategy == Full(remat=True)
    vae.disable_gradient_checkpointing()


@pytest.mark.parametrize("pool", [0, 16])
def test_a_model_of_one_stage_runs_in_full(pool):
    config = SMALL.replace(
        encoder_block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
        pool_channels=pool,
    )
    assert execution("decoder", 512, 0, config=config).strategy == Full()
    params, config = random_model(config)
    z = latent(config, (4, 4))
    assert taesd_jax.decode(params, z, config=config).shape == (1, 4, 4, 3)
    if pool:
        with pytest.raises(ValueError, match="cannot be split after 1 stages, it has 0"):
            taesd_jax.decode(params, z, config=config, strategy=Tiles())
        with pytest.raises(ValueError, match="cannot run in strips"):
            taesd_jax.decode(params, z, config=config, strategy=Strips())

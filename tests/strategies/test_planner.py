"""The planner stays within its budget, and what it chooses changes no result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SMALL, image, latent, random_model

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny, Way
from taesd_jax.strategies.estimates import streamed_bytes, tiled_bytes, whole_bytes
from taesd_jax.strategies.planner import choose_way, default_budget
from taesd_jax.strategies.streaming import default_plan

SHORT = SMALL.replace(num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))


def ways(half, side, budget, platform="cpu", config=VARIANTS["taesd"], n=1):
    shape = (n, side, side, 4 if half == "decoder" else 3)
    return choose_way(half, shape, config=config, platform=platform, budget=budget)


@pytest.mark.parametrize(
    ("half", "side", "platform", "budget", "name"),
    [
        ("decoder", 16, "cpu", 10**9, "whole"),
        ("decoder", 64, "cpu", 10**9, "streamed"),
        ("encoder", 1024, "cpu", 10**9, "streamed"),
        ("decoder", 64, "gpu", 10**9, "whole"),
        ("decoder", 1024, "gpu", 10**9, "tiled"),
        ("encoder", 16384, "cpu", 10**9, "tiled"),
        # Nothing fits: the smallest.
        ("decoder", 64, "gpu", 0, "streamed"),
    ],
)
def test_the_fastest_way_that_fits(half, side, platform, budget, name):
    way = ways(half, side, budget, platform)
    assert way.name == name
    assert way.temporary_bytes <= budget or budget == 0


def test_a_batch_is_cut_before_an_image_is():
    one = ways("decoder", 64, 10**10, "gpu").temporary_bytes
    assert ways("decoder", 64, 8 * one, "gpu", n=8).chunk == 8
    way = ways("decoder", 64, 3 * one, "gpu", n=8)
    assert (way.name, way.chunk) == ("whole", 1)


def test_stages_that_need_the_whole_image_stay_whole():
    way = choose_way(
        "decoder", (1, 128, 128, 32), config=VARIANTS["taef2"], platform="cpu", budget=0
    )
    assert way.name == "streamed"
    assert way.plan.whole == 1


def temporaries(run, config, shape, dtype, **options):
    params = jax.eval_shape(lambda: taesd_jax.init(jax.random.key(0), config=config))
    lowered = jax.jit(lambda p, x: run(p, x, config=config, **options)).lower(
        params, jax.ShapeDtypeStruct(shape, dtype)
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("name", "half"),
    [("taesd", "encoder"), ("taesd", "decoder"), ("taef2", "decoder"), ("taesana", "encoder")],
)
def test_estimates_cover_what_xla_counts(name, half):
    config = VARIANTS[name]
    factor = config.spatial_factor
    size = (512 // factor, 768 // factor) if half == "decoder" else (512, 768)
    shape = (1, *size, config.latent_channels if half == "decoder" else 3)
    run, streamed = taesd_jax.encode, taesd_jax.encode_streaming
    if half == "decoder":
        run, streamed = taesd_jax.decode, taesd_jax.decode_streaming
    for dtype in ("float32", "bfloat16"):
        counted = temporaries(run, config, shape, dtype)
        assert counted <= whole_bytes(half, size, config) <= 3 * counted
    plan = default_plan(half, config)
    counted = temporaries(streamed, config, shape, "float32", plan=plan)
    assert counted <= streamed_bytes(half, size, config, plan) <= 6 * counted


def test_the_estimate_of_a_tile_covers_what_xla_counts():
    config = VARIANTS["taesd"]
    for run, half, shape in (
        (taesd_jax.decode_tiled, "decoder", (1, 64, 64, 4)),
        (taesd_jax.encode_tiled, "encoder", (1, 512, 512, 3)),
    ):
        counted = temporaries(run, config, shape, "float32")
        # In one program the tiles are put together there too.
        result = 4 * shape[1] * shape[2] * (64 * 3 if half == "decoder" else 3)
        estimate = tiled_bytes(half, shape[1:3], config, 64)
        assert counted <= estimate + 4 * result
        assert estimate <= 4 * counted


@pytest.fixture(scope="module")
def vae():
    params, config = random_model(SHORT)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config)


def test_what_it_chooses_changes_no_result(vae):
    z, x = latent(SHORT, (40, 32), n=2), image(SHORT, (317, 250), n=2)
    assert vae.way("decoder", z) == vae.way("decoder", jnp.asarray(z))
    assert vae.way("decoder", z).name == vae.way("encoder", x).name == "streamed"
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
    smallest = vae.way("decoder", z)
    vae.memory_budget = 2**40
    assert vae.way("decoder", z).temporary_bytes > smallest.temporary_bytes
    assert default_budget(jax.devices()[0]) > 0


def test_questions_that_make_no_sense_are_refused(vae):
    z = latent(SHORT, (4, 4))
    with pytest.raises(ValueError, match="half must be one of"):
        vae.way("middle", z)
    with pytest.raises(ValueError, match="image must be"):
        vae.way("encoder", z)
    for budget in ("1GB", -1, True, float("nan")):
        vae.memory_budget = budget
        with pytest.raises(TypeError, match="memory_budget must be a number of bytes"):
            vae.decode(z)
    vae.memory_budget = None


def test_the_budget_is_looked_up_again(vae, monkeypatch):
    free = 2**40
    monkeypatch.setattr(taesd_jax.strategies.planner, "default_budget", lambda device: free)
    monkeypatch.setattr(taesd_jax.autoencoder.time, "monotonic", lambda: now)
    z, now = jax.ShapeDtypeStruct((8, 1024, 1024, 4), jnp.float32), 0.0
    plenty = vae.way("decoder", z)
    free = 0
    assert vae.way("decoder", z) == plenty
    now = 2.0
    assert vae.way("decoder", z).temporary_bytes < plenty.temporary_bytes


def test_float64_takes_twice_the_memory():
    options = {"config": VARIANTS["taesd"], "platform": "gpu", "budget": 2**40}
    narrow, wide = (
        choose_way("decoder", (1, 64, 64, 4), wide=wide, **options) for wide in (False, True)
    )
    assert wide.temporary_bytes == 2 * narrow.temporary_bytes


def test_a_traced_batch_is_not_cut(vae):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("batch"))
    z = jax.device_put(latent(SHORT, (40, 32), n=8), rows)
    run = jax.jit(lambda vae, z: (ways.append(vae.way("decoder", z)), vae.decode(z).sample)[1])
    ways = []
    compiled = run.lower(jax.device_put(vae, jax.NamedSharding(mesh, jax.P())), z).compile()
    assert (ways[0].name, ways[0].chunk) == ("streamed", 8)
    assert "all-gather" not in compiled.as_text()
    assert compiled.output_shardings.is_equivalent_to(rows, 4)


def test_sharded_and_rematerialised_images_run_whole(vae):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    z = jnp.zeros((8, 64, 64, 4))
    spread = jax.device_put(z, jax.NamedSharding(mesh, jax.P("batch")))
    assert vae.way("decoder", spread) == Way("whole", None, None, 8, 0)
    everywhere = jax.device_put(z, jax.NamedSharding(mesh, jax.P()))
    assert vae.way("decoder", z).name == vae.way("decoder", everywhere).name == "streamed"
    vae.enable_gradient_checkpointing()
    assert vae.way("decoder", z).name == "whole"
    vae.disable_gradient_checkpointing()


@pytest.mark.parametrize("pool", [0, 16])
def test_a_model_of_one_stage_runs_whole(pool):
    config = SMALL.replace(
        encoder_block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
        pool_channels=pool,
    )
    shape = (1, 512, 512, 4)
    way = choose_way("decoder", shape, config=config, platform="cpu", budget=0)
    assert way.name == "whole"
    params, config = random_model(config)
    assert taesd_jax.decode(params, latent(config, (4, 4)), config=config).shape == (1, 4, 4, 3)
    if pool:
        with pytest.raises(ValueError, match="cannot be split behind 1 stages, it has 0"):
            taesd_jax.decode_tiled(params, latent(config, (4, 4)), config=config)

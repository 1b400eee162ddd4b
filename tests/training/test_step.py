"""The compiled step: what it lowers, keeps, averages and shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from trainings import TWO_STAGES, batch, model, take_steps

from taesd_jax import encode
from taesd_jax.io import from_uint8
from taesd_jax.model.layers import split_layers
from taesd_jax.strategies.sharding import replicate, shard_images
from taesd_jax.training import Recipe
from taesd_jax.training.features import stage_features
from taesd_jax.training.losses import encoded_patches, mse, mse_eighth, sharpen
from taesd_jax.training.optimizers import make_optimizer
from taesd_jax.training.state import init_state
from taesd_jax.training.step import make_context, train_step

# Two orders of one batch's sum, then a step of Adam, which divides by small second moments.
STEP_ROUNDING = 2e-4
# bfloat16 keeps 8 bits; the mean of many errors is nearer than each.
BFLOAT16 = 2e-2


def recipe(**fields):
    return Recipe(**({"steps": 4, "batch_size": 8, "crop_size": 16} | fields))


@pytest.mark.parametrize(
    ("component", "weights"),
    [
        ("encoder", {"mse": 1.0}),
        ("encoder", {"mse": 1.0, "features": 0.1}),
        ("encoder", {"mse": 1.0, "dssim": 0.1, "mse_eighth": 0.1}),
        ("encoder", {"mse": 1.0, "encoded_patches": 0.1}),
        ("decoder", {"mse": 1.0, "features": 0.1}),
        ("decoder", {"response": 1.0}),
        ("decoder", {"mse": 1.0, "dssim": 0.1, "amplitude": 0.1, "mse_eighth": 0.1}),
        ("decoder", {"mse": 1.0, "patches": 1.0}),
        ("decoder", {"encoded_patches": 1.0}),
    ],
)
def test_steps_lower_the_loss(component, weights):
    size = 24 if {"patches", "encoded_patches"} & set(weights) else 16
    fields = {"component": component, "losses": weights, "crop_size": size}
    what = recipe(steps=30, learning_rate=3e-3, warmup=2, **fields)
    images = batch(size=size)
    examples = batch()["image"]
    state, losses = take_steps(what, 30 * [images], teacher=model(1), examples=examples)
    assert losses[-1]["total"] < 0.9 * losses[0]["total"]  # the images are noise
    assert set(losses[-1]) == {"total", *weights}
    assert int(state.step) == 30
    total = sum(weights[name] * float(losses[-1][name]) for name in weights)
    assert float(losses[-1]["total"]) == pytest.approx(total, rel=1e-5)


def test_examples_may_change_afterwards():
    rng, what = np.random.default_rng(0), recipe(component="encoder", losses={"response": 1.0})
    examples = rng.uniform(-1, 1, (8, 64, 64, 3)).astype("f4")
    fixed, reused = examples.copy(), np.empty_like(examples)
    expected = make_context(model(2), what, model(1), examples=fixed).sensitivity
    for _ in range(3):
        reused[...] = examples
        context = make_context(model(2), what, model(1), examples=reused)
        reused[...] = 0
        for got, want in zip(context.sensitivity, expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_images_may_have_8_bits():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 3)).astype(np.uint8)
    what = recipe(losses={"mse": 1.0, "amplitude": 1.0}, teacher_blend=0.5, warmup=0)
    losses = []
    for image, decoded in (pixels, from_uint8(pixels)):
        images = {"image": jnp.asarray(image), "decoded": jnp.asarray(decoded)}
        losses += take_steps(what, [images], teacher=model(1))[1]
    for name, value in losses[0].items():
        # XLA multiplies by a rounded 1 / 127.5.
        assert float(value) == pytest.approx(float(losses[1][name]), rel=1e-5)


def test_the_average_follows_the_params():
    what, student = recipe(warmup=0, ema_decay=0.9), model(2)
    context = make_context(student, what, model(1))
    expected = student.params["decoder"]
    state = init_state(expected, TWO_STAGES, what)
    for number in range(3):
        state, _ = train_step(state, batch(), context)
        decay = min(0.9, (1 + number) / (10 + number))
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, expected)


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_frozen_stages_keep_their_params(component):
    what = recipe(component=component, frozen_stages=1, warmup=0)
    start = model(2).params[component]
    state, _ = take_steps(what, [batch()], teacher=model(1))
    kept = {name for name, p in start.items() if equal(p, state.params[name])}
    assert kept == {name for name, p in start.items() if equal(p, state.ema[name])}
    near_latent, rest = split_layers(component, TWO_STAGES, 1)
    assert kept == {layer.name for layer in near_latent} & set(start)
    assert kept < {layer.name for layer in (*near_latent, *rest)}


def equal(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.oracle
def test_amsgrad_is_pytorchs():
    torch = pytest.importorskip("torch")
    what = Recipe(optimizer="amsgrad", learning_rate=0.01, warmup=0, steps=1000)
    optimizer, rng = make_optimizer(what), np.random.default_rng(0)
    params = {"x": jnp.zeros(5)}
    state = optimizer.init(params)
    theirs = torch.zeros(5, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.9), amsgrad=True)
    for step in range(5):
        # Falling gradients: the largest second moment lies behind.
        gradient = rng.normal(size=5).astype("f4") / (step + 1)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update({"x": jnp.asarray(gradient)}, state, params)
        params = {"x": params["x"] + updates["x"]}
        theirs.grad = torch.tensor(gradient)
        adam.step()
    # The rate has fallen by less than 1e-4 of it.
    np.testing.assert_allclose(params["x"], theirs.detach().numpy(), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_bfloat16_computes_with_float32_masters(component):
    values = {}
    for dtype in ("float32", "bfloat16"):
        what = recipe(component=component, dtype=dtype, remat=True)
        state, (losses,) = take_steps(what, [batch()], teacher=model(1))
        leaves = jax.tree.leaves((state.params, state.ema, losses))
        assert {str(leaf.dtype) for leaf in leaves} == {"float32"}
        values[dtype] = float(losses["mse"])
    assert values["float32"] != values["bfloat16"]
    assert values["float32"] == pytest.approx(values["bfloat16"], rel=BFLOAT16)


def test_a_function_as_teacher_equals_the_model():
    teacher = model(1)
    results = []
    for other in (
        teacher,
        Partial(lambda params, x: encode(params, x, config=TWO_STAGES), teacher.params),
        lambda x: teacher.encode(x).latents,
    ):
        state, (losses,) = take_steps(recipe(warmup=0), [batch()], teacher=other)
        results.append((float(losses["total"]), state.params))
    for total, params in results[1:]:
        assert total == pytest.approx(results[0][0], rel=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, results[0][1]
        )


def test_cached_results_take_the_place_of_the_teacher():
    teacher, images = model(1), batch()
    latent = teacher.encode(images["image"]).latents
    decoded = jnp.clip(teacher.decode(latent).sample, -1, 1)
    totals = []
    for given in (images, images | {"latent": latent, "decoded": decoded}):
        _, (losses,) = take_steps(recipe(teacher_blend=0.5), [given], teacher=teacher)
        totals.append(float(losses["total"]))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_a_teacher_blend_moves_the_target():
    teacher = model(1)
    totals = []
    for blend in (0.0, 1.0):
        what = recipe(teacher_blend=blend)
        _, (losses,) = take_steps(what, [batch()], teacher=teacher, student=teacher)
        totals.append(float(losses["total"]))
    sample = teacher.decode(teacher.encode(batch()["image"]).latents).sample
    clipped = float(jnp.mean((sample - jnp.clip(sample, -1, 1)) ** 2))
    assert totals[1] == pytest.approx(clipped, abs=1e-6)  # the teacher has nothing to learn
    assert totals[0] > 0.1


@pytest.mark.slow
def test_the_target_is_sharpened():
    teacher, images = model(1), batch(size=24)
    decoded = teacher.decode(teacher.encode(images["image"]).latents).sample
    target = sharpen(jnp.clip(decoded, -1, 1), 0.5)
    weights = {"mse": 1.0, "encoded_patches": 1.0}
    what = recipe(losses=weights, crop_size=24, teacher_blend=1.0, sharpen=0.5)
    _, (losses,) = take_steps(what, [images], teacher=teacher, student=teacher)
    assert float(losses["mse"]) == pytest.approx(float(mse(decoded, target)), rel=1e-4)
    assert float(losses["mse"]) > 1e-4
    encoder = {"component": "encoder", "config": TWO_STAGES}
    seen = [stage_features(teacher.params["encoder"], x, **encoder)[1] for x in (decoded, target)]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(what.seed), 0), 1)
    expected = float(encoded_patches(*seen, key))
    assert float(losses["encoded_patches"]) == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights",
    [
        {"mse": 1.0, "response": 0.1},
        pytest.param({"mse": 1.0, "adversarial": 0.1}, marks=pytest.mark.slow),
        pytest.param({"mse": 1.0, "patches": 1.0, "encoded_patches": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(weights):
    mesh = jax.make_mesh((8,), ("batch",))
    size = 24 if "patches" in weights else 16
    what = recipe(losses=weights, warmup=0, crop_size=size, replay_size=16)
    context = make_context(model(2), what, model(1), examples=batch()["image"])
    results = []
    for sharding, whole in ((None, None), (shard_images(mesh, batch="batch"), replicate(mesh))):
        state = init_state(model(2).params["decoder"], TWO_STAGES, what)
        for seed in range(3):
            images = batch(size=size, seed=seed)
            if sharding is not None:
                state, images = jax.device_put(state, whole), jax.device_put(images, sharding)
            state, losses = train_step(state, images, context)
        results.append((state.params, losses))
    one, eight = (jax.tree.map(np.asarray, tree) for tree in results)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=STEP_ROUNDING), one, eight
    )


def test_images_of_an_encoder_are_those_of_its_own_decoder():
    student, images = model(2), batch()
    what = recipe(component="encoder", losses={"mse_eighth": 1.0})
    _, (losses,) = take_steps(what, [images], teacher=model(1), student=student)
    sample = student.decode(student.encode(images["image"]).latents).sample
    expected = float(mse_eighth(sample, images["image"]))
    assert float(losses["mse_eighth"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_the_discriminator_sees_the_target():
    teacher, images, distance = model(1), batch(), {}
    latent = teacher.encode(images["image"]).latents
    images |= {"latent": latent, "decoded": teacher.decode(latent).sample}
    for blend in (0.0, 1.0):
        weights = {"mse": 1.0, "adversarial": 0.1}
        what = recipe(losses=weights, teacher_blend=blend, replay_size=16)
        _, (losses,) = take_steps(what, [images], teacher=teacher, student=teacher)
        distance[blend] = float(losses["adversarial"])
    assert distance[1.0] < 1e-3 * distance[0.0]  # the teacher's own images, but for rounding


@pytest.mark.slow
def test_adversarial_training_keeps_a_buffer():
    what = recipe(losses={"mse": 1.0, "adversarial": 0.1}, warmup=0, replay_size=16)
    state, (losses,) = take_steps(what, [batch()], teacher=model(1))
    assert {"discriminator", "adversarial"} < set(losses)
    assert int(state.discriminator.replay.added) == 8

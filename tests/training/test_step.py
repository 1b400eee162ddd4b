"""The compiled step: what it lowers, keeps, averages and shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from trainings import TWO_STAGES, batch, model

from taesd_jax import encode
from taesd_jax.io.images import from_uint8
from taesd_jax.model.layers import split_layers
from taesd_jax.strategies.sharding import replicate, shard_images
from taesd_jax.training.features import stage_features
from taesd_jax.training.losses import encoded_patches, mse, mse_eighth, sharpen
from taesd_jax.training.optimizers import optimizer_of
from taesd_jax.training.recipe import Recipe
from taesd_jax.training.state import init_state
from taesd_jax.training.step import make_step

# Two orders of one batch's sum, then a step of Adam, which divides by small second moments.
STEP_ROUNDING = 2e-4


@pytest.mark.parametrize(
    ("half", "weights"),
    [
        ("encoder", {"mse": 1.0}),
        ("encoder", {"mae": 1.0, "features": 0.1}),
        ("encoder", {"mse": 1.0, "dssim": 0.1, "mse_eighth": 0.1}),
        ("encoder", {"mse": 1.0, "encoded_patches": 0.1}),
        ("decoder", {"mse": 1.0, "features": 0.1}),
        ("decoder", {"response": 1.0}),
        ("decoder", {"mae": 1.0, "dssim": 0.1, "amplitude": 0.1, "mse_eighth": 0.1}),
        ("decoder", {"mse": 1.0, "patches": 1.0}),
        ("decoder", {"encoded_patches": 1.0}),
    ],
)
def test_a_step_lowers_the_loss(half, weights):
    teacher, student = model(1), model(2)
    side = 24 if {"patches", "encoded_patches"} & set(weights) else 16
    recipe = Recipe(half=half, losses=weights, steps=30, rate=3e-3, warmup=2, batch=8, side=side)
    options = {"decoder": student.params["decoder"], "examples": batch()["image"]}
    step = make_step(TWO_STAGES, recipe, teacher, **options)
    state, found = init_state(student.params[half], TWO_STAGES, recipe), []
    for _ in range(recipe.steps):
        state, parts = step(state, batch(side=side))
        found.append(float(parts["total"]))
    assert found[-1] < 0.9 * found[0]  # the pictures are noise
    assert set(parts) == {"total", *weights}
    assert int(state.step) == recipe.steps
    total = sum(weights[name] * float(parts[name]) for name in weights)
    assert float(parts["total"]) == pytest.approx(total, rel=1e-5)


def test_pictures_may_have_8_bits():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 3)).astype(np.uint8)
    recipe = Recipe(losses={"mse": 1.0, "mae": 1.0}, imitate=0.5, steps=4, warmup=0, side=16)
    step, start = make_step(TWO_STAGES, recipe, model(1)), model(2).params["decoder"]
    found = []
    for image, decoded in (pixels, from_uint8(pixels)):
        batch = {"image": jnp.asarray(image), "decoded": jnp.asarray(decoded)}
        found.append(step(init_state(start, TWO_STAGES, recipe), batch)[1])
    for name, value in found[0].items():
        # XLA multiplies by a rounded 1 / 127.5.
        assert float(value) == pytest.approx(float(found[1][name]), rel=1e-5)


def test_the_average_follows_the_params():
    recipe = Recipe(steps=4, warmup=0, batch=8, side=16, ema=0.9)
    step, start = make_step(TWO_STAGES, recipe, model(1)), model(2).params["decoder"]
    state, want = init_state(start, TWO_STAGES, recipe), start
    for number in range(3):
        state, _ = step(state, batch())
        decay = min(0.9, (1 + number) / (10 + number))
        want = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, want, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, want)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_frozen_stages_keep_their_params(half):
    recipe = Recipe(half=half, frozen=1, steps=4, warmup=0, batch=8, side=16)
    start = model(2).params[half]
    state, _ = make_step(TWO_STAGES, recipe, model(1))(
        init_state(start, TWO_STAGES, recipe), batch()
    )
    kept = {name for name, p in start.items() if equal(p, state.params[name])}
    assert kept == {name for name, p in start.items() if equal(p, state.ema[name])}
    near_latent, rest = split_layers(half, TWO_STAGES, 1)
    assert kept == {layer.name for layer in near_latent} & set(start)
    assert kept < {layer.name for layer in (*near_latent, *rest)}
    far = Recipe(half=half, frozen=5)
    with pytest.raises(ValueError, match="cannot be split behind 5 stages"):
        make_step(TWO_STAGES, far, model(1))


@pytest.mark.oracle
@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_amsgrad_is_pytorchs(beta2):
    torch = pytest.importorskip("torch")
    recipe = Recipe(optimizer="amsgrad", rate=0.01, warmup=0, steps=1000, beta2=beta2)
    optimizer, rng = optimizer_of(recipe), np.random.default_rng(0)
    params = {"x": jnp.zeros(5)}
    state = optimizer.init(params)
    theirs = torch.zeros(5, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, beta2), amsgrad=True)
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


def equal(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


# bfloat16 keeps 8 bits; the mean of many errors is nearer than each.
BFLOAT16 = 2e-2


def test_bfloat16_computes_with_float32_masters():
    for half in ("encoder", "decoder"):
        losses = {}
        for dtype in ("float32", "bfloat16"):
            recipe = Recipe(half=half, steps=4, batch=8, side=16, dtype=dtype, remat=True)
            step = make_step(TWO_STAGES, recipe, model(1))
            state, parts = step(init_state(model(2).params[half], TWO_STAGES, recipe), batch())
            leaves = jax.tree.leaves((state.params, state.ema, parts))
            assert {str(leaf.dtype) for leaf in leaves} == {"float32"}
            losses[dtype] = float(parts["mse"])
        assert losses["float32"] != losses["bfloat16"]
        assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=BFLOAT16)


def test_a_function_as_teacher_equals_the_model():
    teacher, student = model(1), model(2)
    recipe = Recipe(losses={"mse": 1.0, "latents": 0.5}, steps=4, warmup=0, batch=8, side=16)
    found = []
    for other in (
        teacher,
        Partial(lambda params, x: encode(params, x, config=TWO_STAGES), teacher.params),
        lambda x: teacher.encode(x).latents,
    ):
        state = init_state(student.params["decoder"], TWO_STAGES, recipe)
        state, parts = make_step(TWO_STAGES, recipe, other)(state, batch())
        found.append((float(parts["total"]), state.params))
    for total, params in found[1:]:
        assert total == pytest.approx(found[0][0], rel=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, found[0][1])


def test_answers_in_the_batch_take_the_place_of_the_teacher():
    teacher, images = model(1), batch()
    latent = teacher.encode(images["image"]).latents
    decoded = jnp.clip(teacher.decode(latent).sample, -1, 1)
    recipe = Recipe(steps=4, warmup=0, batch=8, side=16, imitate=0.5)
    totals = []
    for given in (images, images | {"latent": latent, "decoded": decoded}):
        state = init_state(model(2).params["decoder"], TWO_STAGES, recipe)
        totals.append(float(make_step(TWO_STAGES, recipe, teacher)(state, given)[1]["total"]))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_imitation_moves_the_target():
    teacher = model(1)
    totals = []
    for imitate in (0.0, 1.0):
        recipe = Recipe(steps=4, batch=8, side=16, imitate=imitate)
        state = init_state(teacher.params["decoder"], TWO_STAGES, recipe)
        totals.append(float(make_step(TWO_STAGES, recipe, teacher)(state, batch())[1]["total"]))
    clipped = teacher.decode(teacher.encode(batch()["image"]).latents).sample
    apart = float(jnp.mean((clipped - jnp.clip(clipped, -1, 1)) ** 2))
    assert totals[1] == pytest.approx(apart, abs=1e-6)  # the teacher itself has nothing to learn
    assert totals[0] > 0.1


def test_sharpening_is_of_the_target():
    teacher, images = model(1), batch(side=24)
    decoded = teacher.decode(teacher.encode(images["image"]).latents).sample
    aim = sharpen(jnp.clip(decoded, -1, 1), 0.5)
    weights = {"mse": 1.0, "encoded_patches": 1.0}
    recipe = Recipe(losses=weights, steps=4, batch=8, side=24, imitate=1.0, sharpen=0.5)
    state = init_state(teacher.params["decoder"], TWO_STAGES, recipe)
    _, parts = make_step(TWO_STAGES, recipe, teacher)(state, images)
    assert float(parts["mse"]) == pytest.approx(float(mse(decoded, aim)), rel=1e-4)
    assert float(parts["mse"]) > 1e-4
    encoder = {"half": "encoder", "config": TWO_STAGES}
    seen = [stage_features(teacher.params["encoder"], x, **encoder)[1] for x in (decoded, aim)]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.seed), 0), 2)
    want = float(encoded_patches(*seen, key))
    assert float(parts["encoded_patches"]) == pytest.approx(want, rel=1e-3)
    assert want > 1e-4


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
    side = 24 if "patches" in weights else 16
    recipe = Recipe(losses=weights, steps=4, warmup=0, batch=8, side=side, buffer=16)
    step, found = make_step(TWO_STAGES, recipe, model(1), examples=batch()["image"]), []
    for place, whole in ((None, None), (shard_images(mesh, batch="batch"), replicate(mesh))):
        state = init_state(model(2).params["decoder"], TWO_STAGES, recipe)
        for seed in range(3):
            images = batch(side=side, seed=seed)
            if place is not None:
                state, images = jax.device_put(state, whole), jax.device_put(images, place)
            state, parts = step(state, images)
        found.append((state.params, parts))
    one, eight = (jax.tree.map(np.asarray, tree) for tree in found)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=STEP_ROUNDING), one, eight
    )


def test_images_of_an_encoder_are_those_of_its_own_decoder():
    teacher, student, images = model(1), model(2), batch()
    recipe = Recipe(half="encoder", losses={"mse_eighth": 1.0}, steps=4, batch=8, side=16)
    state = init_state(student.params["encoder"], TWO_STAGES, recipe)
    step = make_step(TWO_STAGES, recipe, teacher, decoder=student.params["decoder"])
    _, parts = step(state, images)
    sample = student.decode(student.encode(images["image"]).latents).sample
    want = float(mse_eighth(sample, images["image"]))
    assert float(parts["mse_eighth"]) == pytest.approx(want, rel=1e-4)


@pytest.mark.slow
def test_the_discriminator_sees_what_is_aimed_at():
    teacher, images, apart = model(1), batch(), {}
    latent = teacher.encode(images["image"]).latents
    images |= {"latent": latent, "decoded": teacher.decode(latent).sample}
    for imitate in (0.0, 1.0):
        losses = {"mse": 1.0, "adversarial": 0.1}
        recipe = Recipe(losses=losses, imitate=imitate, steps=4, batch=8, side=16, buffer=16)
        state = init_state(teacher.params["decoder"], TWO_STAGES, recipe)
        _, parts = make_step(TWO_STAGES, recipe, teacher)(state, images)
        apart[imitate] = float(parts["adversarial"])
    assert apart[1.0] < 1e-3 * apart[0.0]  # the teacher's own pictures, but for rounding


def test_adversarial_training_keeps_a_buffer():
    recipe = Recipe(
        losses={"mse": 1.0, "adversarial": 0.1}, steps=4, warmup=0, batch=8, side=16, buffer=16
    )
    step = make_step(TWO_STAGES, recipe, model(1))
    state = init_state(model(2).params["decoder"], TWO_STAGES, recipe)
    state, parts = step(state, batch())
    assert {"discriminator", "adversarial"} < set(parts)
    assert int(state.critic[2].added) == 8

"""The parts of a training: losses, crops, discriminator, features and the compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from taesd_jax import AutoencoderTiny, AutoencoderTinyConfig, decode, encode, init, metrics
from taesd_jax.errors import PictureError
from taesd_jax.images import write_image
from taesd_jax.layers import split_layers
from taesd_jax.sharding import replicate, shard_images
from taesd_jax.training import discriminator, losses
from taesd_jax.training.augmentation import augment
from taesd_jax.training.features import feature_distance, stage_features
from taesd_jax.training.optimizers import optimizer_of
from taesd_jax.training.pictures import Crops, list_pictures
from taesd_jax.training.recipe import Recipe
from taesd_jax.training.step import init_state, make_step
from taesd_jax.training.teachers import teacher_digest

SMALL = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(8, 8),
    num_encoder_blocks=(1, 1),
    num_decoder_blocks=(1, 1),
)
# Float32 sums of a few thousand terms, in another order.
ROUNDING = 2e-5
# Two orders of one batch's sum, then a step of Adam, which divides by small second moments.
STEP_ROUNDING = 2e-4


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (2, 32, 40, 3)).astype("f4")
    return np.clip(target + 0.3 * rng.normal(size=target.shape), -1, 1).astype("f4"), target


def model(seed=0, config=SMALL):
    return AutoencoderTiny(init(jax.random.key(seed), config=config), config)


@pytest.mark.parametrize("name", list(losses.LOSSES))
def test_equal_images_have_no_loss_and_gradients_are_finite(name, pair):
    image, target = map(jnp.asarray, pair)
    assert losses.LOSSES[name](image, image) == pytest.approx(0, abs=1e-6)
    assert losses.LOSSES[name](image, target) > 0
    for x in (image, target, jnp.zeros_like(target)):
        assert np.isfinite(jax.grad(losses.LOSSES[name])(x, target)).all()


def test_ssim_is_scikit_images(pair):
    from skimage.metrics import structural_similarity

    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options |= {"channel_axis": -1, "data_range": 1.0, "full": True}
    for image, target in zip(*pair, strict=True):
        _, full = structural_similarity((image + 1) / 2, (target + 1) / 2, **options)
        got = metrics.ssim(image[None], target[None])
        assert got == pytest.approx(full[5:-5, 5:-5].mean(), abs=ROUNDING)


def test_gmsd_by_scipy(pair):
    from scipy.ndimage import correlate

    prewitt = np.array([[1, 0, -1]] * 3) / 3
    want = []
    for image, target in zip(*pair, strict=True):
        maps = []
        for x in (image, target):
            luma = (x + 1) * 127.5 @ np.array([0.299, 0.587, 0.114])
            small = luma.reshape(16, 2, 20, 2).mean((1, 3))
            parts = [correlate(small, kernel)[1:-1, 1:-1] for kernel in (prewitt, prewitt.T)]
            maps.append(np.hypot(*parts))
        a, b = maps
        want.append(np.std((2 * a * b + 170) / (a**2 + b**2 + 170)))
    assert float(metrics.gmsd(*pair)) == pytest.approx(np.mean(want), rel=1e-4)
    assert metrics.gmsd(pair[0], pair[0]) == 0


def bands(x):
    """Filter images (n, h, w, c) as Laws did, -> (8, n, h - 2, w - 2, c)."""
    from scipy.ndimage import correlate1d

    taps = np.array([[1, 2, 1], [2, 0, -2], [2, -4, 2]]) / 4
    products = [
        correlate1d(correlate1d(x.astype("f8"), a, 1), b, 2)[:, 1:-1, 1:-1]
        for a in taps
        for b in taps
    ]
    return np.stack(products[1:])


def test_sharpness_by_scipy(pair):
    from scipy.ndimage import gaussian_filter

    image = pair[1]
    blurred = np.stack([gaussian_filter(x, (1, 1, 0)) for x in image]).astype("f4")
    luma = [x @ np.array([0.299, 0.587, 0.114])[:, None] for x in (image, blurred)]
    a, b = (np.sqrt((bands(x) ** 2).mean((2, 3, 4))) for x in luma)
    want = np.minimum(b / a, 1).mean()
    assert float(metrics.sharpness(image, blurred)) == pytest.approx(want, rel=1e-4)
    assert want < 0.5
    assert metrics.sharpness(image, image) == 1
    flat = jnp.zeros((1, 8, 8, 3))
    assert metrics.sharpness(flat, flat) == 1
    with pytest.raises(ValueError, match="sharpness needs sides of 3"):
        metrics.sharpness(image[:, :2], image[:, :2])


def test_a_grid_of_pixels_hides_no_blur(pair):
    from scipy.ndimage import gaussian_filter

    image = pair[1]
    blurred = np.stack([gaussian_filter(x, (1, 1, 0)) for x in image]).astype("f4")
    y, x = np.indices(image.shape[1:3])
    gridded = blurred + 0.3 * ((-1.0) ** (x + y))[None, :, :, None].astype("f4")
    # One band of eight is full, and the others are as they were.
    gain = metrics.sharpness(image, gridded) - metrics.sharpness(image, blurred)
    assert 0 < gain < 1 / 8


def test_pixel_losses_by_numpy(pair):
    image, target = pair
    assert losses.mse(image, target) == pytest.approx(((image - target) ** 2).mean(), rel=1e-5)
    assert losses.mae(image, target) == pytest.approx(np.abs(image - target).mean(), rel=1e-5)
    small = [x.reshape(2, 4, 8, 5, 8, 3).mean((2, 4)) for x in pair]
    want = ((small[0] - small[1]) ** 2).mean()
    assert losses.mse_eighth(image, target) == pytest.approx(want, rel=1e-4)
    want = np.abs(np.diff([abs(np.fft.rfft2(x, axes=(1, 2), norm="ortho")) for x in pair], axis=0))
    assert losses.amplitude(image, target) == pytest.approx(want.mean(), rel=1e-4)


def test_detail_and_texture_by_scipy(pair):
    from scipy.ndimage import correlate, gaussian_filter

    kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], "f4")[None, :, :, None]
    a, b = (correlate(x, kernel)[:, 1:-1, 1:-1] for x in pair)
    assert losses.detail(*pair) == pytest.approx(np.abs(a - b).mean(), rel=1e-4)
    # Three standard deviations' radius is cut to 3 pixels: 7 in all.
    energies = (gaussian_filter(bands(x) ** 2, 1.5, axes=(2, 3), radius=3) for x in pair)
    a, b = (np.sqrt(x[:, :, 3:-3, 3:-3] + 1e-6) for x in energies)
    assert losses.texture(*pair) == pytest.approx(((a - b) ** 2).mean(), rel=1e-4)


def test_losses_say_which_sides_they_need():
    x = jnp.zeros((1, 10, 16, 3))
    with pytest.raises(ValueError, match=r"ssim needs sides of 11 at least, got shape"):
        metrics.ssim(x, x)
    with pytest.raises(ValueError, match=r"gmsd needs sides of 6 at least"):
        metrics.gmsd(x[:, :5], x[:, :5])
    with pytest.raises(ValueError, match=r"sides that 8 divides, got shape \(1, 10, 16, 3\)"):
        losses.mse_eighth(x, x)
    with pytest.raises(ValueError, match="texture needs sides of 9 at least"):
        losses.texture(x[:, :8], x[:, :8])
    with pytest.raises(ValueError, match="detail needs sides of 3 at least"):
        losses.detail(x[:, :2], x[:, :2])


def test_augmentation_keeps_grey_and_luma():
    rng = np.random.default_rng(0)
    image = rng.uniform(-0.1, 0.1, (8, 8, 3)).astype("f4")  # far from clipping
    luma = np.array([0.299, 0.587, 0.114], "f4")
    grey = np.repeat(image[:, :, :1], 3, axis=2)
    flipped = set()
    for _ in range(16):
        state = rng.bit_generator.state
        found = augment(rng, image, hue=0.3, saturation=0.5)
        flips = np.allclose(found @ luma, (image @ luma)[:, ::-1], atol=1e-3)
        assert flips or np.allclose(found @ luma, image @ luma, atol=1e-3)
        flipped.add(flips)
        rng.bit_generator.state = state
        same = augment(rng, grey, hue=0.3, saturation=0.5)
        assert np.allclose(same, grey[:, ::-1] if flips else grey, atol=1e-5)
    assert flipped == {True, False}


def test_no_augmentation_changes_nothing_but_the_side():
    image = np.random.default_rng(0).uniform(-1, 1, (8, 8, 3)).astype("f4")
    found = augment(np.random.default_rng(0), image, hue=0, saturation=0)
    assert any(np.allclose(found, x, atol=1e-6) for x in (image, image[:, ::-1]))


def test_crops_depend_on_their_number_and_the_seed_alone(photographs):
    pictures = list_pictures([photographs])
    one, other = (Crops(pictures, side=48, seed=3) for _ in range(2))
    last = [one[i] for i in (7, 0, 2**30)]
    assert all((a == b).all() for a, b in zip(last, [other[i] for i in (7, 0, 2**30)], strict=True))
    assert last[0].shape == (48, 48, 3)
    assert last[0].dtype == np.uint8
    assert (last[0] != Crops(pictures, side=48, seed=4)[7]).any()


def test_a_crop_is_a_piece_of_its_picture(photographs):
    (cat,) = list_pictures([photographs / "cat.png"])
    from skimage import data

    whole = data.cat()
    plain = {"shrink": 1, "hue": 0, "saturation": 0}
    crop = Crops([cat], side=64, **plain)[0]
    views = np.lib.stride_tricks.sliding_window_view(whole, (64, 64, 3))[:, :, 0]
    corners = views[:, :, 0, 0].astype("i2")
    for piece in (crop, crop[:, ::-1]):
        likely = np.argwhere(np.abs(corners - piece[0, 0]).max(-1) <= 1)
        if any(np.abs(views[i, j].astype("i2") - piece).max() <= 1 for i, j in likely):
            return
    raise AssertionError("the crop is nowhere in its picture")


def test_pictures_kept_in_memory_are_bounded(photographs):
    crops = Crops(list_pictures([photographs]), side=32, memory=1)
    for i in range(8):
        crops[i]
    assert len(crops._kept) == 1


def test_bad_pictures_are_reported_and_skipped(photographs, tmp_path):
    (tmp_path / "broken.png").write_bytes((photographs / "cat.png").read_bytes()[:1000])
    (tmp_path / "text.jpg").write_text("no picture")
    write_image(tmp_path / "tiny.png", np.zeros((20, 90, 3), "f4"))
    pictures = list_pictures([tmp_path, photographs / "cat.png"])
    crops = Crops(pictures, side=48)
    with pytest.warns(UserWarning, match="skipped") as record:
        list(map(crops.__getitem__, range(30)))
    said = sorted(str(warning.message) for warning in record)
    assert len(said) == 3
    assert any("90x20 is too small, crops have 48 pixels" in line for line in said)
    with (
        pytest.raises(PictureError, match="none of the 3 pictures can be used"),
        pytest.warns(UserWarning, match="skipped"),
    ):
        Crops(pictures[:3], side=48)[0]


def test_lists_of_pictures(photographs, tmp_path):
    names = [path.name for path in list_pictures([photographs, photographs / "cat.png"])]
    assert names == ["astronaut.png", "cat.png", "coffee.png"]
    assert len(list_pictures([f"{photographs}/c*.png"])) == 2
    for source in (tmp_path, tmp_path / "absent.png", f"{tmp_path}/*.png"):
        with pytest.raises(PictureError, match="no pictures in"):
            list_pictures([source])


def test_discriminator_is_pytorchs():
    torch = pytest.importorskip("torch")
    params = discriminator.init_discriminator(jax.random.key(0), latent_channels=4, width=8)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (3, 32, 32, 3)).astype("f4")
    latent = rng.normal(size=(3, 4, 4, 4)).astype("f4")

    def scores(image, latent):
        x = torch.cat([image, torch.nn.functional.interpolate(latent, scale_factor=8)], 1)
        for stage in range(6):
            p = {k: torch.tensor(np.asarray(v)) for k, v in params[f"stage_{stage}"].items()}
            kernel, stride = p["kernel"].permute(3, 2, 0, 1), 2 if stage in (1, 3) else 1
            x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=1)
            x = torch.nn.functional.batch_norm(x, None, None, p["scale"], p["bias"], training=True)
            x = torch.relu(x)
            yield torch.einsum("nchw,c->nhw", x, p["score"]) + p["score_bias"]

    fake = torch.tensor(image).permute(0, 3, 1, 2).requires_grad_()
    maps = list(scores(fake, torch.tensor(latent).permute(0, 3, 1, 2)))
    found = jax.jit(discriminator.score)(params, image, latent)
    for ours, theirs in zip(found, maps, strict=True):
        assert np.allclose(ours, theirs.detach(), atol=10 * ROUNDING)
    real = rng.uniform(-1, 1, (3, 32, 32, 3)).astype("f4")
    both = torch.cat([torch.tensor(real).permute(0, 3, 1, 2), fake])
    latents = torch.tensor(np.concatenate([latent, latent])).permute(0, 3, 1, 2)
    distance = sum(((m[3:] - m[:3]) ** 2).mean() for m in scores(both, latents)) / 6
    (gradient,) = torch.autograd.grad(distance, fake)
    want = fake - gradient / gradient.std(correction=0)
    arguments = map(jnp.asarray, (real, image, latent))
    got, apart = jax.jit(discriminator.corrected_target)(params, *arguments)
    assert float(apart) == pytest.approx(distance.item(), rel=1e-3)
    assert np.allclose(got, want.detach().permute(0, 2, 3, 1), atol=5e-3)  # in deviations


def test_discriminator_learns_to_tell_fakes():
    import optax

    rng = np.random.default_rng(0)
    real = jnp.asarray(rng.uniform(-1, 1, (4, 16, 16, 3)), "f4")
    fake, latent = jnp.zeros_like(real), jnp.zeros((4, 2, 2, 4))
    params = discriminator.init_discriminator(jax.random.key(0), latent_channels=4, width=8)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        find = jax.value_and_grad(discriminator.discriminator_loss)
        loss, gradient = find(params, real, fake, latent, latent)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    found = []
    for _ in range(40):
        params, state, loss = step(params, state)
        found.append(loss)
    assert found[-1] < 0.3 * found[0]


def test_replay_shows_older_fakes():
    buffer = discriminator.new_buffer((6, 2, 2, 3), 1, 1)
    replay = jax.jit(discriminator.replay)
    seen = []
    for step in range(4):
        fakes = jnp.full((4, 2, 2, 3), 1.0 + step)
        buffer, mixed, latents = replay(jax.random.key(step), buffer, fakes, fakes[:, :1, :1, :1])
        assert (mixed[2:] == 1 + step).all()
        assert (latents[:, 0, 0, 0] == mixed[:, 0, 0, 0]).all()
        seen.append(np.unique(mixed[:2, 0, 0, 0]))
    assert (seen[0] == 1).all()  # there were no older ones
    assert all((found <= 1 + step).all() for step, found in enumerate(seen))
    assert any((found < 1 + step).any() for step, found in enumerate(seen))
    assert buffer.added == 16
    assert set(np.unique(buffer.images)) == {3, 4}  # the last six of sixteen


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_stage_features_pass_through_the_model(half):
    config = SMALL.replace(decoder_block_out_channels=(8, 4), encoder_block_out_channels=(4, 8))
    params = init(jax.random.key(0), config=config)
    rng = np.random.default_rng(0)
    shape = (1, 16, 24, 3) if half == "encoder" else (1, 8, 12, 4)
    x = jnp.asarray(rng.uniform(-1, 1, shape), "f4")
    run = encode if half == "encoder" else decode
    options = {"half": half, "config": config}
    found, features = stage_features(params[half], x, remat=False, **options)
    assert np.allclose(found, run(params, x, config=config), atol=ROUNDING)
    widths = getattr(config, f"{half}_block_out_channels")
    assert tuple(feature.shape[-1] for feature in features) == widths
    assert feature_distance(features, features) == 0

    def total(p, remat):
        return stage_features(p, x, remat=remat, **options)[0].sum()

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    plain, again = (gradient(params[half], remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)


def test_features_of_other_widths_are_left_out():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(1, 4, 4, 8)).astype("f4") for _ in range(2))
    other = jnp.zeros((1, 8, 8, 4))
    got = feature_distance([jnp.asarray(a), other], [jnp.asarray(b), jnp.zeros((1, 8, 8, 6))])
    assert float(got) == pytest.approx(np.mean((a - b) ** 2) / np.var(b), rel=1e-5)


def batch(n=8, side=16, seed=0):
    rng = np.random.default_rng(seed)
    return {"image": jnp.asarray(rng.uniform(-1, 1, (n, side, side, 3)), "f4")}


@pytest.mark.parametrize(
    ("half", "weights"),
    [
        ("encoder", {"mse": 1.0}),
        ("encoder", {"mae": 1.0, "features": 0.1}),
        ("decoder", {"mse": 1.0, "features": 0.1}),
        ("decoder", {"mae": 1.0, "dssim": 0.1, "amplitude": 0.1, "mse_eighth": 0.1}),
    ],
)
def test_a_step_lowers_the_loss(half, weights):
    teacher, student = model(1), model(2)
    recipe = Recipe(half=half, losses=weights, steps=30, rate=3e-3, warmup=2, batch=8, side=16)
    step = make_step(SMALL, recipe, teacher)
    state, found = init_state(student.params[half], SMALL, recipe), []
    for _ in range(recipe.steps):
        state, parts = step(state, batch())
        found.append(float(parts["total"]))
    assert found[-1] < 0.9 * found[0]  # the pictures are noise
    assert set(parts) == {"total", *weights}
    assert int(state.step) == recipe.steps
    total = sum(weights[name] * float(parts[name]) for name in weights)
    assert float(parts["total"]) == pytest.approx(total, rel=1e-5)


def test_the_average_follows_the_params():
    recipe = Recipe(steps=4, warmup=0, batch=8, side=16, ema=0.9)
    step, start = make_step(SMALL, recipe, model(1)), model(2).params["decoder"]
    state, want = init_state(start, SMALL, recipe), start
    for number in range(3):
        state, _ = step(state, batch())
        decay = min(0.9, (1 + number) / (10 + number))
        want = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, want, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, want)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_frozen_stages_keep_their_params(half):
    recipe = Recipe(half=half, frozen=1, steps=4, warmup=0, batch=8, side=16)
    start = model(2).params[half]
    state, _ = make_step(SMALL, recipe, model(1))(init_state(start, SMALL, recipe), batch())
    kept = {name for name, p in start.items() if equal(p, state.params[name])}
    assert kept == {name for name, p in start.items() if equal(p, state.ema[name])}
    near_latent, rest = split_layers(half, SMALL, 1)
    assert kept == {layer.name for layer in near_latent} & set(start)
    assert kept < {layer.name for layer in (*near_latent, *rest)}
    far = Recipe(half=half, frozen=5)
    with pytest.raises(ValueError, match="cannot be split behind 5 stages"):
        make_step(SMALL, far, model(1))


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


def test_bfloat16_computes_with_float32_masters():
    for half in ("encoder", "decoder"):
        recipe = Recipe(half=half, steps=4, batch=8, side=16, dtype="bfloat16", remat=True)
        step = make_step(SMALL, recipe, model(1))
        state, parts = step(init_state(model(2).params[half], SMALL, recipe), batch())
        leaves = jax.tree.leaves((state.params, state.ema, parts))
        assert {str(leaf.dtype) for leaf in leaves} == {"float32"}


def test_a_function_as_teacher_equals_the_model():
    teacher, student = model(1), model(2)
    recipe = Recipe(losses={"mse": 1.0, "latents": 0.5}, steps=4, warmup=0, batch=8, side=16)
    found = []
    for other in (
        teacher,
        Partial(lambda params, x: encode(params, x, config=SMALL), teacher.params),
        lambda x: teacher.encode(x).latents,
    ):
        state = init_state(student.params["decoder"], SMALL, recipe)
        state, parts = make_step(SMALL, recipe, other)(state, batch())
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
        state = init_state(model(2).params["decoder"], SMALL, recipe)
        totals.append(float(make_step(SMALL, recipe, teacher)(state, given)[1]["total"]))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_imitation_moves_the_target():
    teacher = model(1)
    totals = []
    for imitate in (0.0, 1.0):
        recipe = Recipe(steps=4, batch=8, side=16, imitate=imitate)
        state = init_state(teacher.params["decoder"], SMALL, recipe)
        totals.append(float(make_step(SMALL, recipe, teacher)(state, batch())[1]["total"]))
    clipped = teacher.decode(teacher.encode(batch()["image"]).latents).sample
    apart = float(jnp.mean((clipped - jnp.clip(clipped, -1, 1)) ** 2))
    assert totals[1] == pytest.approx(apart, abs=1e-6)  # the teacher itself has nothing to learn
    assert totals[0] > 0.1


@pytest.mark.parametrize("weights", [{"mse": 1.0}, {"mse": 1.0, "adversarial": 0.1}])
def test_eight_devices_equal_one(weights):
    mesh = jax.make_mesh((8,), ("batch",))
    recipe = Recipe(losses=weights, steps=4, warmup=0, batch=8, side=16, buffer=16)
    step, found = make_step(SMALL, recipe, model(1)), []
    for place, whole in ((None, None), (shard_images(mesh, batch="batch"), replicate(mesh))):
        state = init_state(model(2).params["decoder"], SMALL, recipe)
        for seed in range(3):
            images = batch(seed=seed)
            if place is not None:
                state, images = jax.device_put(state, whole), jax.device_put(images, place)
            state, parts = step(state, images)
        found.append((state.params, parts))
    one, eight = (jax.tree.map(np.asarray, tree) for tree in found)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=STEP_ROUNDING), one, eight
    )


def test_functions_and_models_are_told_apart():
    one, other = model(1), model(2)

    def run(params, x):
        return encode(params, x, config=SMALL)

    bent = AutoencoderTiny(one.params, SMALL.replace(act_fn="silu"))
    everyone = [one, other, bent, Partial(run, one.params), Partial(run, other.params), run]
    assert len({teacher_digest(teacher) for teacher in everyone}) == len(everyone)
    assert teacher_digest(one) == teacher_digest(model(1))


def test_adversarial_training_keeps_a_buffer():
    recipe = Recipe(
        losses={"mse": 1.0, "adversarial": 0.1}, steps=4, warmup=0, batch=8, side=16, buffer=16
    )
    step = make_step(SMALL, recipe, model(1))
    state = init_state(model(2).params["decoder"], SMALL, recipe)
    state, parts = step(state, batch())
    assert {"discriminator", "adversarial"} < set(parts)
    assert int(state.critic[2].added) == 8


def test_what_a_teacher_must_have_is_said():
    function = lambda x: x[:, ::2, ::2, :1].repeat(4, -1)  # noqa: E731
    with pytest.raises(ValueError, match="need a teacher of the family, not a function"):
        make_step(SMALL, Recipe(imitate=0.5), function)
    only = AutoencoderTiny({"encoder": model().params["encoder"]}, SMALL)
    with pytest.raises(ValueError, match="the decoder is not loaded"):
        make_step(SMALL, Recipe(losses={"features": 1.0}), only)
    wide = SMALL.replace(decoder_block_out_channels=(16, 16))
    with pytest.raises(ValueError, match="one of them as wide in both"):
        make_step(wide, Recipe(losses={"features": 1.0}), model())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"half": "both"}, "half must be"),
        ({"half": "encoder", "losses": {"dssim": 1.0}}, "losses of an encoder are mse, mae, amp"),
        ({"losses": {"lpips": 1.0}}, "losses of a decoder are .* got lpips"),
        ({"losses": {}}, "weights above 0"),
        ({"losses": {"mse": 0.0}}, "weights above 0"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"frozen": -1}, "frozen must be 0 or more"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"imitate": 1.5}, "imitate must be from 0 to 1"),
        ({"half": "encoder", "imitate": 0.5}, "imitate is of decoders"),
        ({"beta2": 1.0}, "beta2 must be from 0 to"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"saturation": -1.0}, "saturation must be from 0 to 10"),
        ({"losses": {"dssim": 1.0}, "side": 8}, "dssim needs a side of 11"),
        ({"losses": {"mse_eighth": 1.0}, "side": 12}, "mse_eighth needs a side"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": float("inf")}, "rate must be 0 or more, got inf"),
        ({"shrink": float("inf")}, "shrink must be 1 or more, got inf"),
        ({"hue": 2.0}, "hue must be from 0 to 1"),
        ({"losses": {"mse": float("inf")}}, "finite weights above 0"),
        ({"losses": {"texture": 1.0}, "side": 8}, "texture needs a side of 9"),
        ({"seed": -1}, "seed must be from 0"),
        ({"losses": {"adversarial": 1.0}, "buffer": 4}, "buffer must hold a batch"),
    ],
)
def test_recipes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)

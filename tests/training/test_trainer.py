"""Whole trainings: folders, components, teachers, devices, and the model in PyTorch."""

import jax
import numpy as np
import pytest
from trainings import SMALL, log, run, same

from taesd_jax import AutoencoderTiny, cli, load, save
from taesd_jax.errors import TrainingError
from taesd_jax.training import Recipe, list_images, new_student, train

pytest.importorskip("grain")

# Two frameworks' float32 sums.
ROUNDING = 2e-5
# Grain calls what its own dependencies have since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.slow
def test_both_components_share_a_folder_and_convert_to_diffusers(photographs, teacher, tmp_path):
    for component in ("encoder", "decoder"):
        run(photographs, teacher, tmp_path / "run", recipe={"component": component})
    command = ["convert", str(tmp_path / "run" / "model"), str(tmp_path / "out")]
    assert cli.main([*command, "--to", "diffusers"]) == 0
    same(load(tmp_path / "out").params, load(tmp_path / "run" / "model").params)


@pytest.mark.slow
def test_components_may_have_widths_of_their_own(photographs, teacher, tmp_path):
    wide = SMALL.replace(encoder_block_out_channels=(4, 8, 8, 8))
    narrow = SMALL.replace(decoder_block_out_channels=(8, 8, 4, 4))
    for component, config in (("encoder", wide), ("decoder", narrow)):
        recipe = {"component": component, "steps": 1}
        run(photographs, teacher, tmp_path, recipe=recipe, config=config)
    loaded = load(tmp_path / "model")
    assert set(loaded.params) == {"encoder", "decoder"}
    assert loaded.config.encoder_block_out_channels == wide.encoder_block_out_channels
    assert loaded.config.decoder_block_out_channels == narrow.decoder_block_out_channels
    other = narrow.replace(act_fn="silu")
    for path in tmp_path.glob("decoder"):
        path.rename(tmp_path / "earlier")
    with pytest.raises(TrainingError, match="has another act_fn than this decoder"):
        run(photographs, teacher, tmp_path, config=other)


@pytest.mark.slow
def test_many_devices_train_as_one(photographs, teacher, tmp_path):
    mesh = jax.make_mesh((4,), ("batch",), devices=jax.devices()[:4])
    options = {"recipe": {"steps": 3}, "eval_every": 2}
    one = run(photographs, teacher, tmp_path / "one", **options)
    four = run(photographs, teacher, tmp_path / "four", mesh=mesh, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, four)
    with pytest.raises(TrainingError, match="has a training with other devices"):
        run(photographs, teacher, tmp_path / "four", resume=True, **options)
    with pytest.raises(ValueError, match="batch_size must be a multiple of 4 devices, got 6"):
        run(photographs, teacher, tmp_path / "six", mesh=mesh, recipe={"batch_size": 6})


def test_a_teacher_of_other_latents_is_refused(photographs, tmp_path):
    with pytest.raises(ValueError, match=r"must return latents \(1, 4, 4, 4\) for .* got"):
        run(photographs, lambda x: x[:, ::8, ::8], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_gone_is_skipped(photographs, teacher, tmp_path):
    images = [*list_images([photographs]), tmp_path / "gone.png"]
    with pytest.warns(UserWarning, match=r"skipped .*gone\.png"):
        train(
            tmp_path / "run",
            [str(path) for path in images],
            student=new_student("decoder", SMALL, seed=2),
            recipe=Recipe(steps=8, batch_size=4, crop_size=32),
            teacher=AutoencoderTiny.from_pretrained(teacher),
        )


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_a_function_can_teach(component, photographs, tmp_path):
    def pooled(images):
        n, h, w, _ = images.shape
        small = images.reshape(n, h // 8, 8, w // 8, 8, 3).mean((2, 4))
        return small[..., [0, 1, 2, 0]]

    options = {"held_out": [photographs / "cat.png"], "eval_size": 32}
    recipe = {"component": component}
    trained = run(photographs, pooled, tmp_path, recipe=recipe, **options)
    assert set(trained) == {component}
    events = [set(e) - {"step"} for e in log(tmp_path / component) if "total" not in e]
    assert events == [{"latent_mse"} if component == "encoder" else {"psnr"}]


def test_an_encoder_is_evaluated_with_the_teachers_decoder(photographs, teacher, tmp_path):
    options = {"held_out": [photographs / "cat.png"], "eval_size": 64}
    run(photographs, teacher, tmp_path, recipe={"component": "encoder"}, **options)
    assert {"latent_mse", "psnr", "teacher_psnr"} < set(log(tmp_path / "encoder")[-1])


def test_a_new_student_starts_at_middle_grey():
    sample = new_student("decoder", SMALL, seed=0).decode(np.zeros((1, 4, 4, 4), "f4")).sample
    assert (np.abs(sample) < 1e-6).all()


def test_a_loss_that_is_not_finite_stops_it(photographs, teacher, tmp_path):
    with pytest.raises(
        TrainingError, match=r"not finite at step \d+, the loss is .*; try a lower learning_rate"
    ):
        run(
            photographs, teacher, tmp_path, recipe={"learning_rate": 1e30, "warmup": 0, "steps": 20}
        )
    assert not (tmp_path / "model_decoder.safetensors").exists()
    # The folder is free for the lower learning rate.
    run(photographs, teacher, tmp_path, recipe={"steps": 1})


@pytest.mark.slow
def test_what_was_trained_gives_the_same_images_in_pytorch(photographs, teacher, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from taesd_jax.convert.torch_modules import TorchAutoencoderTiny

    latent = np.random.default_rng(0).normal(size=(1, 4, 6, 4)).astype("f4")
    narrow = SMALL.replace(decoder_block_out_channels=(8, 8, 4, 4))
    for config in (SMALL, narrow):
        trained = run(photographs, teacher, tmp_path / str(config.fits_diffusers), config=config)
        params = load(teacher).params | trained
        want = AutoencoderTiny(params, config).decode(latent).sample
        if config.fits_diffusers:
            save(tmp_path / "diffusers", params, config)
            theirs = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "diffusers")
        else:
            theirs = TorchAutoencoderTiny(params, config)
        z = torch.tensor(latent).permute(0, 3, 1, 2)
        with torch.no_grad():
            got = theirs.decoder(z) if config is narrow else theirs.decode(z).sample
        got = got.permute(0, 2, 3, 1)
        assert np.allclose(got.numpy(), want, atol=ROUNDING)

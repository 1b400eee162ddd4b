"""Whole trainings: folders, components, teachers, devices, and the model in PyTorch."""

import errno
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from trainings import SMALL, log, run, same

from taesd_jax import AutoencoderTiny, cli, load, save
from taesd_jax.errors import TrainingError
from taesd_jax.training import Recipe, list_images, new_student, train

pytest.importorskip("grain")

NOT_FINITE = r"not finite at step \d+, the loss is [^;]*"
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
    with pytest.raises(TrainingError, match="has a training run with other devices"):
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
    recipe = {"learning_rate": 1e30, "warmup": 0, "steps": 20}
    with pytest.raises(TrainingError, match=NOT_FINITE + "; try a lower learning_rate$"):
        run(photographs, teacher, tmp_path, recipe=recipe)
    assert not (tmp_path / "model_decoder.safetensors").exists()
    # The folder is free for the lower learning rate.
    run(photographs, teacher, tmp_path, recipe={"steps": 1})


def test_the_last_good_checkpoint_is_kept_and_named(photographs, teacher, tmp_path):
    recipe = {"optimizer": "amsgrad", "learning_rate": 1e38, "steps": 40, "warmup": 10}
    with pytest.raises(TrainingError, match=NOT_FINITE) as raised:
        run(photographs, teacher, tmp_path, recipe=recipe, eval_every=1)
    kept = max((tmp_path / "decoder" / "checkpoints").iterdir())
    assert f"; {kept} is kept; try a lower learning_rate, in another" in str(raised.value)
    with np.load(kept) as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"batch_size": 10**8},
            r"batch_size 100,000,000 needs [\d,.]+ TB of memory or more, .* a",
        ),
        ({"crop_size": 8 * 10**6}, r"batch_size 4 needs .* lower it, or crop_size"),
        (
            {"losses": {"adversarial": 1.0}, "replay_size": 10**10},
            r"replay_size 10,000,000,000 needs 125\.4 TB of memory or more, 12\.5 kB a crop",
        ),
        (
            {"num_crops": 10**11},
            r"num_crops 100,000,000,000 needs 332\.8 TB of .*teacher_cache or more, 3\.3 kB a crop",
        ),
    ],
)
def test_absurd_sizes_are_refused_at_once(recipe, message, photographs, teacher, tmp_path):
    with pytest.raises(TrainingError, match=message):
        run(photographs, teacher, tmp_path, recipe=recipe)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_in_one_line(photographs, teacher, tmp_path, monkeypatch):
    write = Path.open

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_for_logs(path, *mode):
        return full() if path.name == "log.jsonl" and mode else write(path, *mode)

    patches = {"recipe.json": (os, "fsync", full), "log.jsonl": (Path, "open", full_for_logs)}
    for name, patch in patches.items():
        with monkeypatch.context() as context:
            context.setattr(*patch)
            with pytest.raises(OSError, match=f"No space left on device: .*{name}'$"):
                run(photographs, teacher, tmp_path)
    run(photographs, teacher, tmp_path)


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

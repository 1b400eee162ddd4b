"""Whole trainings: folders, the command, halves, teachers, and what comes out in PyTorch."""

import json

import jax
import numpy as np
import pytest
from trainings import SMALL, arguments, log, run, same

from taesd_jax import AutoencoderTiny, cli, init, load, save
from taesd_jax.errors import PictureError, TrainingError
from taesd_jax.io.images import write_image
from taesd_jax.training.crops import Crops, list_pictures
from taesd_jax.training.recipe import Recipe
from taesd_jax.training.trainer import new_student, train

pytest.importorskip("grain")
pytest.importorskip("orbax.checkpoint")

# Two frameworks' float32 sums.
ROUNDING = 2e-5
# Orbax and grain call what their own dependencies have since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_the_command_writes_model_log_and_samples(photographs, teacher, tmp_path, capsys):
    from PIL import Image

    extra = ["--losses", "mse=1", "dssim=0.1", "--widths", "8", "8", "4", "4", "--imitate", "0.5"]
    assert cli.main(arguments(photographs, teacher, tmp_path / "run", *extra)) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/run/model_decoder.safetensors\n"
    assert "step 2 of 12: " in err
    assert "psnr" in err
    params, config, layout = load(tmp_path / "run" / "model")
    assert (set(params), layout) == ({"decoder"}, "original")
    assert config.decoder_block_out_channels == (8, 8, 4, 4)
    events = log(tmp_path / "run" / "decoder")
    assert [e["step"] for e in events if "total" in e] == [2, 4, 6, 8, 10, 12]
    assert [e["step"] for e in events if "psnr" in e] == [4, 8, 12]
    assert {"mse", "dssim"} < set(events[0])
    samples = sorted(path.name for path in (tmp_path / "run" / "decoder" / "samples").iterdir())
    assert samples == ["0000004.png", "0000008.png", "0000012.png"]
    with Image.open(tmp_path / "run" / "decoder" / "samples" / "0000012.png") as sheet:
        assert sheet.size == (64, 3 * 64)  # the held-out picture, the teacher's and the student's
    said = json.loads((tmp_path / "run" / "decoder" / "recipe.json").read_text())
    assert [name.split(":")[0] for name in said["pictures"]] == [
        "astronaut.png",
        "coffee.png",
    ]  # not the held-out one


@pytest.mark.slow
def test_both_halves_share_a_folder_and_convert_to_diffusers(photographs, teacher, tmp_path):
    for half in ("encoder", "decoder"):
        run(photographs, teacher, tmp_path / "run", recipe={"half": half})
    command = ["convert", str(tmp_path / "run" / "model"), str(tmp_path / "out")]
    assert cli.main([*command, "--to", "diffusers"]) == 0
    same(load(tmp_path / "out").params, load(tmp_path / "run" / "model").params)


@pytest.mark.slow
def test_an_encoders_images_are_made_by_the_decoder_it_starts_with(
    photographs, teacher, tmp_path, capsys
):
    more = ["--init", teacher, "--losses", "mse=1", "dssim=0.1", "--imitate", "0.5", "--steps", "2"]
    more += ["--candidates", "2", "--crops", "8"]
    folder, other = tmp_path / "run", tmp_path / "other"
    assert cli.main(arguments(photographs, None, folder, *more, half="encoder")) == 0
    assert {"mse", "dssim"} < set(log(folder / "encoder")[0])
    same(load(folder / "model").params["decoder"], load(teacher).params["decoder"])
    assert json.loads((folder / "answers" / "answers.json").read_text())["candidates"] == 2
    run(photographs, teacher, other, recipe={"steps": 1})
    capsys.readouterr()
    assert cli.main(arguments(photographs, None, other, *more, half="encoder")) == 1
    assert "has another decoder than the one" in capsys.readouterr().err
    new = ["--teacher", teacher, *more[2:]]
    assert cli.main(arguments(photographs, None, tmp_path / "new", *new, half="encoder")) == 1
    assert "need a student that has a decoder, too" in capsys.readouterr().err


@pytest.mark.slow
def test_halves_may_have_widths_of_their_own(photographs, teacher, tmp_path):
    wide = SMALL.replace(encoder_block_out_channels=(4, 8, 8, 8))
    narrow = SMALL.replace(decoder_block_out_channels=(8, 8, 4, 4))
    for half, config in (("encoder", wide), ("decoder", narrow)):
        run(photographs, teacher, tmp_path, recipe={"half": half, "steps": 1}, config=config)
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
def test_a_decoder_of_other_latents_leaves_the_encoder_behind(photographs, teacher, tmp_path):
    config = SMALL.replace(raw_latent_scale=0.13025)
    save(tmp_path / "xl", init(jax.random.key(3), config=config), config, layout="original")
    more = ["--init", teacher, "--steps", "1"]
    words = arguments(photographs, tmp_path / "xl", tmp_path / "run", *more)
    assert cli.main(words) == 0
    loaded = load(tmp_path / "run" / "model")
    assert set(loaded.params) == {"decoder"}
    assert loaded.config.raw_latent_scale == 0.13025


@pytest.mark.slow
def test_many_devices_train_as_one(photographs, teacher, tmp_path):
    mesh = jax.make_mesh((4,), ("batch",), devices=jax.devices()[:4])
    options = {"recipe": {"steps": 3}, "measure_every": 2}
    one = run(photographs, teacher, tmp_path / "one", **options)
    four = run(photographs, teacher, tmp_path / "four", mesh=mesh, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, four)
    with pytest.raises(TrainingError, match="has a training with other devices"):
        run(photographs, teacher, tmp_path / "four", resume=True, **options)
    with pytest.raises(TrainingError, match="batch must be a multiple of 4 devices, got 6"):
        run(photographs, teacher, tmp_path / "six", mesh=mesh, recipe={"batch": 6})


def test_a_teacher_of_other_latents_is_refused(photographs, tmp_path):
    with pytest.raises(TrainingError, match=r"must give latents \(1, 4, 4, 4\) of images .* got"):
        run(photographs, lambda x: x[:, ::8, ::8], tmp_path)
    assert not list(tmp_path.iterdir())


def test_sample_sheets_are_no_pictures_to_train_on(photographs, tmp_path):
    folder = tmp_path / "run" / "decoder"
    write_image(tmp_path / "a.png", np.zeros((64, 64, 3), "f4"))
    write_image(folder / "samples" / "0000001.png", np.zeros((64, 64, 3), "f4"))
    (folder / "recipe.json").write_text("{}")
    assert [path.name for path in list_pictures([tmp_path])] == ["a.png"]
    assert [path.name for path in list_pictures([f"{tmp_path}/**/*.png"])] == ["a.png"]
    assert list_pictures([folder / "samples" / "0000001.png"])


def test_a_picture_that_is_gone_is_skipped(photographs, teacher, tmp_path):
    pictures = [*list_pictures([photographs]), tmp_path / "gone.png"]
    with pytest.warns(UserWarning, match=r"skipped .*gone\.png"):
        train(
            tmp_path / "run",
            [str(path) for path in pictures],
            student=new_student("decoder", SMALL, seed=2),
            config=SMALL,
            recipe=Recipe(steps=8, batch=4, side=32),
            teacher=AutoencoderTiny.from_pretrained(teacher),
        )


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_function_can_teach(half, photographs, tmp_path):
    def pooled(images):
        n, h, w, _ = images.shape
        small = images.reshape(n, h // 8, 8, w // 8, 8, 3).mean((2, 4))
        return small[..., [0, 1, 2, 0]]

    options = {"recipe": {"half": half}, "held_out": [photographs / "cat.png"], "held_side": 32}
    assert set(run(photographs, pooled, tmp_path, **options)) == {half}
    measured = [set(e) - {"step"} for e in log(tmp_path / half) if "total" not in e]
    assert measured == [{"latent_mse"} if half == "encoder" else {"psnr"}]


def test_an_encoder_is_measured_by_the_teachers_decoder(photographs, teacher, tmp_path):
    options = {"held_out": [photographs / "cat.png"], "held_side": 64}
    run(photographs, teacher, tmp_path, recipe={"half": "encoder"}, **options)
    assert {"latent_mse", "psnr", "teacher_psnr"} < set(log(tmp_path / "encoder")[-1])


def test_fine_tuning_keeps_the_encoder_and_starts_where_the_model_was(
    photographs, teacher, tmp_path, capsys
):
    more = ["--init", teacher, "--rate", "1e-9"]
    assert cli.main(arguments(photographs, None, tmp_path / "run", *more)) == 0
    before, after = load(teacher), load(tmp_path / "run" / "model")
    same(after.params["encoder"], before.params["encoder"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        before.params["decoder"],
        after.params["decoder"],
    )


def test_a_new_student_starts_at_middle_grey():
    params = new_student("decoder", SMALL, seed=0)
    sample = AutoencoderTiny(params, SMALL).decode(np.zeros((1, 4, 4, 4), "f4")).sample
    assert (np.abs(sample) < 1e-6).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--losses", "mse"], "losses are given as NAME=WEIGHT, got 'mse'"),
        (["--losses", "lpips=1"], "losses of a decoder are"),
        (["--side", "30"], "side must be a multiple of 8, got 30"),
        (["--side", "800"], "none of the 2 pictures can be used"),
        (["--init", "TEACHER", "--widths", "8", "8", "8", "8"], "--init has its own"),
        (["--held-out", "absent.png"], "no such file or folder: 'absent.png'"),
        (["--held-side", "1000"], "none of the 1 held-out pictures can be used"),
        (["--widths", "8", "8"], "must name the same"),
        (["--held-side", "60"], "held_side must be a multiple of 8, got 60"),
        (["--log-every", "0"], "log_every and measure_every must be 1 or more"),
        (["--losses", "mse=1", "mse=2"], "losses are given once each, got mse again"),
        (["--answers", "there"], "give recipe.crops, --crops"),
    ],
)
def test_mistakes_are_one_line(photographs, teacher, tmp_path, capsys, more, message):
    more = [str(teacher) if word == "TEACHER" else word for word in more]
    assert cli.main(arguments(photographs, teacher, tmp_path / "run", *more)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("taesd-jax: error: ")
    assert message in last
    assert not list(tmp_path.glob("run/model*"))


def test_a_folder_without_pictures_is_an_error(photographs, teacher, tmp_path, capsys):
    words = arguments(photographs, teacher, tmp_path / "run")
    words[2] = str(tmp_path)
    assert cli.main(words) == 1
    assert "no pictures in" in capsys.readouterr().err
    with pytest.raises(PictureError, match="there are no pictures to train on"):
        Crops([], side=32)


def test_bad_pictures_are_reported_and_skipped(photographs, teacher, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes((photographs / "cat.png").read_bytes()[:1000])
    words = arguments(photographs, teacher, tmp_path / "run", "--steps", "6")
    words.insert(3, str(tmp_path / "broken.png"))
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert said.count("broken.png") == 1
    assert "skipped" in said


def test_a_loss_that_is_not_finite_stops_it(photographs, teacher, tmp_path):
    with pytest.raises(
        TrainingError, match=r"not finite at step \d+, the loss is .*; try a lower rate"
    ):
        run(photographs, teacher, tmp_path, recipe={"rate": 1e30, "warmup": 0, "steps": 20})
    assert not (tmp_path / "model_decoder.safetensors").exists()
    # The folder is free for the lower rate.
    run(photographs, teacher, tmp_path, recipe={"steps": 1})


@pytest.mark.slow
@pytest.mark.oracle
def test_what_was_trained_gives_the_same_pictures_in_pytorch(photographs, teacher, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from convert.torch_modules import TorchAutoencoderTiny

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

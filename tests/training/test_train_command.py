"""`taesd-jax train`: what it writes, starts from, refuses and reports."""

import json

import jax
import numpy as np
import pytest
from trainings import SMALL, arguments, log, run, same

from taesd_jax import cli, init, load, save
from taesd_jax.errors import MediaFileError
from taesd_jax.training import Recipe
from taesd_jax.training.crops import Crops

pytest.importorskip("grain")

# Grain calls what its own dependencies have since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_the_command_writes_model_log_and_samples(photographs, teacher, tmp_path, capsys):
    from PIL import Image

    extra = ["--losses", "mse=1", "dssim=0.1", "--widths", "8", "8", "4", "4"]
    extra += ["--teacher-blend", "0.5"]
    assert cli.main(arguments(photographs, teacher, tmp_path / "run", *extra)) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/run/model_decoder.safetensors\n"
    assert "step 2 of 12: " in err
    assert "psnr" in err
    params, config, format = load(tmp_path / "run" / "model")
    assert (set(params), format) == ({"decoder"}, "original")
    assert config.decoder_block_out_channels == (8, 8, 4, 4)
    events = log(tmp_path / "run" / "decoder")
    assert [e["step"] for e in events if "total" in e] == [2, 4, 6, 8, 10, 12]
    assert [e["step"] for e in events if "psnr" in e] == [4, 8, 12]
    assert {"mse", "dssim"} < set(events[0])
    samples = sorted(path.name for path in (tmp_path / "run" / "decoder" / "samples").iterdir())
    assert samples == ["0000004.png", "0000008.png", "0000012.png"]
    with Image.open(tmp_path / "run" / "decoder" / "samples" / "0000012.png") as sheet:
        assert sheet.size == (64, 3 * 64)  # the held-out image, the teacher's and the student's
    metadata = json.loads((tmp_path / "run" / "decoder" / "recipe.json").read_text())
    assert [name.split(":")[0] for name in metadata["images"]] == [
        "astronaut.png",
        "coffee.png",
    ]  # not the held-out one


@pytest.mark.slow
def test_an_encoders_images_are_made_by_the_decoder_it_starts_with(
    photographs, teacher, tmp_path, capsys
):
    more = ["--init", teacher, "--losses", "mse=1", "dssim", "--steps", "2"]
    more += ["--teacher-blend", "0.5", "--crop-candidates", "2", "--num-crops", "8"]
    folder, other = tmp_path / "run", tmp_path / "other"
    assert cli.main(arguments(photographs, None, folder, *more, component="encoder")) == 0
    assert {"mse", "dssim"} < set(log(folder / "encoder")[0])
    same(load(folder / "model").params["decoder"], load(teacher).params["decoder"])
    assert json.loads((folder / "encoder" / "recipe.json").read_text())["losses"]["dssim"] == 0.05
    cache = json.loads((folder / "teacher_cache" / "cache.json").read_text())
    assert cache["crop_candidates"] == 2
    run(photographs, teacher, other, recipe={"steps": 1})
    capsys.readouterr()
    assert cli.main(arguments(photographs, None, other, *more, component="encoder")) == 1
    assert "has another decoder than the one" in capsys.readouterr().err
    new = ["--teacher", teacher, *more[2:]]
    assert cli.main(arguments(photographs, None, tmp_path / "new", *new, component="encoder")) == 1
    assert "need a student that also has a decoder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_decoder_of_other_latents_leaves_the_encoder_behind(photographs, teacher, tmp_path):
    config = SMALL.replace(raw_latent_scale=0.13025)
    save(tmp_path / "xl", init(jax.random.key(3), config=config), config, format="original")
    more = ["--init", teacher, "--steps", "1"]
    words = arguments(photographs, tmp_path / "xl", tmp_path / "run", *more)
    assert cli.main(words) == 0
    loaded = load(tmp_path / "run" / "model")
    assert set(loaded.params) == {"decoder"}
    assert loaded.config.raw_latent_scale == 0.13025


@pytest.mark.slow
def test_fine_tuning_keeps_the_encoder_and_starts_where_the_model_was(
    photographs, teacher, tmp_path, capsys
):
    more = ["--init", teacher, "--learning-rate", "1e-9"]
    assert cli.main(arguments(photographs, None, tmp_path / "run", *more)) == 0
    before, after = load(teacher), load(tmp_path / "run" / "model")
    same(after.params["encoder"], before.params["encoder"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        before.params["decoder"],
        after.params["decoder"],
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--losses", "mse=x"], "losses are given as NAME or NAME=WEIGHT, got 'mse=x'"),
        (["--losses", "lpips=1"], "losses for the decoder are"),
        (["--crop-size", "30"], "crop_size must be a multiple of 8, got 30"),
        (["--crop-size", "800"], "none of the 2 images can be used"),
        (["--init", "TEACHER", "--widths", "8", "8", "8", "8"], "--init has its own"),
        (["--held-out", "absent.png"], "no such file or folder: 'absent.png'"),
        (["--eval-size", "1000"], "none of the 1 held-out images can be used"),
        (["--widths", "8", "8"], "must name the same"),
        (["--eval-size", "60"], "eval_size must be a multiple of 8, got 60"),
        (["--losses", "mse=1", "mse=2"], "losses are given once each, got mse again"),
        (["--teacher-cache", "there"], "set num_crops (--num-crops)"),
    ],
)
def test_mistakes_are_one_line(photographs, teacher, tmp_path, capsys, more, message):
    more = [str(teacher) if word == "TEACHER" else word for word in more]
    assert cli.main(arguments(photographs, teacher, tmp_path / "run", *more)) in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("taesd-jax: error: ")
    assert message in last
    assert not list(tmp_path.glob("run/model*"))


def test_a_folder_without_images_is_an_error(photographs, teacher, tmp_path, capsys):
    words = arguments(photographs, teacher, tmp_path / "run")
    words[2] = str(tmp_path)
    assert cli.main(words) == 1
    assert "no images in" in capsys.readouterr().err
    with pytest.raises(MediaFileError, match="there are no images to train on"):
        Crops([], Recipe())


def test_bad_images_are_reported_and_skipped(photographs, teacher, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes((photographs / "cat.png").read_bytes()[:1000])
    words = arguments(photographs, teacher, tmp_path / "run", "--steps", "6")
    words.insert(3, str(tmp_path / "broken.png"))
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert said.count("broken.png") == 1
    assert "skipped" in said

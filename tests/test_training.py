"""Whole trainings: folders, resumption after kills, the command, and what comes out in PyTorch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from taesd_jax import AutoencoderTiny, AutoencoderTinyConfig, cli, init, load, save
from taesd_jax.errors import PictureError, TrainingError
from taesd_jax.images import from_uint8, write_image
from taesd_jax.training.examples import Answers, batches
from taesd_jax.training.pictures import Crops, list_pictures
from taesd_jax.training.recipe import Recipe
from taesd_jax.training.records import locked
from taesd_jax.training.trainer import new_student, train

pytest.importorskip("grain")
pytest.importorskip("orbax.checkpoint")

ROOT = Path(__file__).parents[1]
# Two frameworks' float32 sums.
ROUNDING = 2e-5
SMALL = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8, 8, 8),
    decoder_block_out_channels=(8, 8, 8, 8),
    num_encoder_blocks=(1, 1, 1, 1),
    num_decoder_blocks=(1, 1, 1, 1),
)
# Orbax and grain call what their own dependencies have since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return the path of a small random model."""
    path = tmp_path_factory.mktemp("teacher") / "teacher"
    save(path, init(jax.random.key(1), config=SMALL), SMALL, layout="original")
    return path


def arguments(photographs, teacher, folder, *more, half="decoder"):
    fixed = ["--steps", 12, "--batch", 4, "--side", 32, "--log-every", 2, "--measure-every", 4]
    held_out = ["--held-out", photographs / "cat.png", "--held-side", 64]
    given = ["--teacher", teacher] if teacher else []
    words = ["train", half, photographs, *given, "-o", folder, *fixed, *held_out, *more]
    return [str(word) for word in words]


def run(photographs, teacher, folder, **options):
    config = options.pop("config", SMALL)
    fixed = {"steps": 6, "batch": 4, "side": 32, "warmup": 1}
    recipe = Recipe(**(fixed | options.pop("recipe", {})))
    model = teacher if callable(teacher) else AutoencoderTiny.from_pretrained(teacher)
    return train(
        folder,
        list_pictures([photographs]),
        student=new_student(recipe.half, config, seed=2),
        config=config,
        recipe=recipe,
        teacher=model,
        log_every=options.pop("log_every", 2),
        **options,
    )


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


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


def test_killed_at_any_moment_it_goes_on_with_the_same_bits(photographs, teacher, tmp_path):
    rng = random.Random()  # at other moments each time
    more = ["--crops", 40, "--losses", "mse=1", "adversarial=0.01", "--buffer", "8"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        # The processes share what they compile.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(folder):
        words = arguments(photographs, teacher, folder, *more, "--resume")
        command = [sys.executable, "-m", "taesd_jax", *words]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    whole = start(tmp_path / "whole")
    _, err = whole.communicate()
    assert whole.returncode == 0, err
    moments = rng.sample([f"step {step} " for step in range(2, 13, 2)], 2)
    for moment in sorted(moments, key=lambda word: int(word.split()[1])):
        process = start(tmp_path / "cut")
        for line in process.stderr:
            if line.startswith(moment):
                time.sleep(rng.uniform(0, 0.3))  # in a step, a measurement or a checkpoint
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(tmp_path / "cut")
    assert (last.wait(), last.stderr.close()) == (0, None)
    folders = [tmp_path / "whole", tmp_path / "cut"]
    same(*(load(folder / "model").params for folder in folders))
    pairs = [
        [
            {k: v for k, v in event.items() if k != "steps_per_second"}
            for event in log(folder / "decoder")
        ]
        for folder in folders
    ]
    assert pairs[0] == pairs[1]
    sheets = [path.read_bytes() for path in sorted(tmp_path.glob("*/decoder/samples/0000012.png"))]
    assert sheets[0] == sheets[1]


def test_a_training_stopped_by_an_error_goes_on(photographs, teacher, tmp_path):
    want = run(photographs, teacher, tmp_path / "whole", measure_every=2)

    def stop(event):
        if event.get("step") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photographs, teacher, tmp_path / "cut", measure_every=2, progress=stop)
    with pytest.raises(TrainingError, match="has a training; resume it, or name another folder"):
        run(photographs, teacher, tmp_path / "cut")
    same(run(photographs, teacher, tmp_path / "cut", measure_every=2, resume=True), want)
    # Nothing is left to do, and the model is there again.
    (tmp_path / "cut" / "model_decoder.safetensors").unlink()
    same(run(photographs, teacher, tmp_path / "cut", resume=True), want)
    assert (tmp_path / "cut" / "model_decoder.safetensors").is_file()


def test_only_the_same_training_is_resumed(photographs, teacher, tmp_path):
    run(photographs, teacher, tmp_path)
    for changes, name in (
        ({"recipe": {"rate": 1e-3}}, "rate"),
        ({"config": SMALL.replace(decoder_block_out_channels=(8, 8, 8, 4))}, "config"),
        ({"teacher": lambda x: x[:, ::8, ::8, :1].repeat(4, -1)}, "teacher"),
    ):
        options = {"teacher": teacher, **changes}
        with pytest.raises(TrainingError, match=f"has a training with other {name}"):
            run(photographs, options.pop("teacher"), tmp_path, resume=True, **options)


def test_answers_are_kept_shared_and_told_apart(photographs, teacher, tmp_path):
    model = AutoencoderTiny.from_pretrained(teacher)
    pictures = list_pictures([photographs])
    crops = Crops(pictures, side=32)

    def answers(crops=crops, count=40, name="it", decoded=True):
        options = {"name": name, "decoded": decoded}
        return Answers(tmp_path / "answers", crops, count, model, **options)

    told = []
    answers().fill(lambda done, count: told.append((done, count)))
    assert told[-1] == (40, 40)
    found = answers()[35]
    assert (found["image"] == crops[35]).all()
    latent = model.encode(from_uint8(crops[35])[None]).latents
    assert np.allclose(found["latent"], latent[0], atol=1e-4)
    sample = model.decode(latent).sample
    assert np.allclose(from_uint8(found["decoded"]), np.clip(sample[0], -1, 1), atol=1 / 127)
    answers(decoded=False).fill(lambda *_: pytest.fail("nothing is missing"))
    for changes, said in (
        ({"count": 41}, "count"),
        ({"name": "other"}, "teacher"),
        ({"crops": Crops(pictures, side=32, seed=1)}, "seed"),
        ({"crops": Crops(pictures[:2], side=32)}, "pictures"),
    ):
        with pytest.raises(TrainingError, match=f"has answers for other {said}"):
            answers(**changes)


def test_answers_that_came_in_between_are_told_apart(photographs, teacher, tmp_path):
    model = AutoencoderTiny.from_pretrained(teacher)
    pictures = list_pictures([photographs])
    first, second = (
        Answers(tmp_path, Crops(pictures, side=16, seed=i), 4, model, name="it", decoded=False)
        for i in range(2)
    )
    first.fill()
    with pytest.raises(TrainingError, match="has answers for other seed"):
        second.fill()


def test_damaged_files_are_named(photographs, teacher, tmp_path):
    model = AutoencoderTiny.from_pretrained(teacher)
    crops = Crops(list_pictures([photographs]), side=16)
    kept = Answers(tmp_path / "answers", crops, 4, model, name="it", decoded=False)
    kept.fill()
    np.save(tmp_path / "answers" / "latent.npy", np.zeros((3, 2, 2, 4), "f4"))
    with pytest.raises(TrainingError, match=r"latent\.npy has 3 answers, not 4"):
        kept[0]
    (tmp_path / "answers" / "answers.json").write_text("{")
    with pytest.raises(TrainingError, match=r"answers\.json cannot be read"):
        kept.fill()
    run(photographs, teacher, tmp_path / "run", measure_every=3)
    newest = tmp_path / "run" / "decoder" / "checkpoints" / "6"
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TrainingError, match=r"checkpoints/6 cannot be read"):
        run(photographs, teacher, tmp_path / "run", measure_every=3, resume=True)
    (tmp_path / "run" / "decoder" / "recipe.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"recipe\.json must hold an object"):
        run(photographs, teacher, tmp_path / "run", measure_every=3, resume=True)


def test_a_folder_is_kept_to_one_training(photographs, teacher, tmp_path):
    with (
        locked(tmp_path / "decoder", wait=False),
        pytest.raises(TrainingError, match="another process trains in"),
    ):
        run(photographs, teacher, tmp_path)


def test_a_fill_that_was_killed_goes_on(photographs, teacher, tmp_path):
    model = AutoencoderTiny.from_pretrained(teacher)
    crops = Crops(list_pictures([photographs]), side=16)
    found = []
    for name, stops in (("whole", False), ("cut", True)):
        options = {"name": "it", "decoded": False}
        if stops:

            def stop(done, count):
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                Answers(tmp_path / name, crops, 700, model, **options).fill(stop)
            said = json.loads((tmp_path / name / "answers.json").read_text())
            assert said["done"] == 512
        Answers(tmp_path / name, crops, 700, model, **options).fill()
        found.append([np.load(tmp_path / name / f"{kind}.npy") for kind in ("image", "latent")])
    same(*found)


def test_batches_depend_on_their_number_alone(photographs, teacher, tmp_path):
    model = AutoencoderTiny.from_pretrained(teacher)
    crops = Crops(list_pictures([photographs]), side=16)
    answers = Answers(tmp_path, crops, 12, model, name="it", decoded=False)
    answers.fill()
    recipe = Recipe(steps=9, batch=4, side=16)
    for source in (crops, answers):
        whole, later = list(batches(source, recipe, 0)), list(batches(source, recipe, 6))
        assert len(whole) == 9
        same(whole[6:], later)
    rounds = [np.stack([b["latent"] for b in whole[i : i + 3]]) for i in (0, 3)]
    ordered = [np.sort(r.reshape(12, -1), axis=0) for r in rounds]
    assert (ordered[0] == ordered[1]).all()  # each crop once a round
    assert (rounds[0] != rounds[1]).any()  # in another order


def test_both_halves_share_a_folder_and_convert_to_diffusers(photographs, teacher, tmp_path):
    for half in ("encoder", "decoder"):
        run(photographs, teacher, tmp_path / "run", recipe={"half": half})
    command = ["convert", str(tmp_path / "run" / "model"), str(tmp_path / "out")]
    assert cli.main([*command, "--to", "diffusers"]) == 0
    same(load(tmp_path / "out").params, load(tmp_path / "run" / "model").params)


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


def test_a_decoder_of_other_latents_leaves_the_encoder_behind(photographs, teacher, tmp_path):
    config = SMALL.replace(raw_latent_scale=0.13025)
    save(tmp_path / "xl", init(jax.random.key(3), config=config), config, layout="original")
    more = ["--init", teacher, "--steps", "1"]
    words = arguments(photographs, tmp_path / "xl", tmp_path / "run", *more)
    assert cli.main(words) == 0
    loaded = load(tmp_path / "run" / "model")
    assert set(loaded.params) == {"decoder"}
    assert loaded.config.raw_latent_scale == 0.13025


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


def test_a_training_without_its_recipe_is_not_gone_on_with(photographs, teacher, tmp_path):
    run(photographs, teacher, tmp_path)
    (tmp_path / "decoder" / "recipe.json").unlink()
    with pytest.raises(TrainingError, match="has checkpoints but no recipe.json"):
        run(photographs, teacher, tmp_path, resume=True)


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
        (["--held-out", "absent.png"], "no pictures in 'absent.png'"),
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


def test_a_folder_without_pictures_is_an_error(teacher, tmp_path, capsys):
    assert cli.main(arguments(tmp_path, teacher, tmp_path / "run")) == 1
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

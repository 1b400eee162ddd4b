"""Trainings that stop: kills, errors, damaged files, and the same bits afterwards."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from trainings import SMALL, arguments, log, run, same

from taesd_jax import AutoencoderTiny, load
from taesd_jax.errors import TrainingError
from taesd_jax.io.images import from_uint8
from taesd_jax.training.crops import Crops, list_pictures
from taesd_jax.training.examples import Answers, batches
from taesd_jax.training.recipe import Recipe
from taesd_jax.training.records import locked

pytest.importorskip("grain")
pytest.importorskip("orbax.checkpoint")

# Orbax and grain call what their own dependencies have since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.process
def test_killed_at_any_moment_it_goes_on_with_the_same_bits(photographs, teacher, tmp_path):
    seed = time.time_ns()  # other moments each time
    print(f"the moments' seed is {seed}")
    rng = random.Random(seed)
    killed = 0
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
        killed += process.returncode == -signal.SIGKILL
    assert killed
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


@pytest.mark.parametrize("loss", ["mse", pytest.param("response", marks=pytest.mark.slow)])
def test_a_training_stopped_by_an_error_goes_on(loss, photographs, teacher, tmp_path):
    recipe = {"losses": {loss: 1.0}}
    want = run(photographs, teacher, tmp_path / "whole", measure_every=2, recipe=recipe)

    def stop(event):
        if event.get("step") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photographs, teacher, tmp_path / "cut", measure_every=2, recipe=recipe, progress=stop)
    with pytest.raises(TrainingError, match="has a training; resume it, or name another folder"):
        run(photographs, teacher, tmp_path / "cut", recipe=recipe)
    options = {"recipe": recipe, "resume": True}
    same(run(photographs, teacher, tmp_path / "cut", measure_every=2, **options), want)
    # Nothing is left to do, and the model is there again.
    (tmp_path / "cut" / "model_decoder.safetensors").unlink()
    same(run(photographs, teacher, tmp_path / "cut", **options), want)
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


def test_a_fill_does_not_go_on_from_a_file_that_was_cut(photographs, teacher, tmp_path):
    model, options = AutoencoderTiny.from_pretrained(teacher), {"name": "it", "decoded": False}
    crops = Crops(list_pictures([photographs]), side=16)
    Answers(tmp_path / "cut", crops, 40, model, **options).fill()
    file = tmp_path / "cut" / "answers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"done": 32}))
    whole = (tmp_path / "cut" / "latent.npy").read_bytes()
    (tmp_path / "cut" / "latent.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"latent\.npy cannot be read .* delete"):
        Answers(tmp_path / "cut", crops, 40, model, **options).fill()
    (tmp_path / "cut" / "latent.npy").unlink()
    with pytest.raises(TrainingError, match=r"latent\.npy cannot be read .* delete"):
        Answers(tmp_path / "cut", crops, 40, model, **options).fill()


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


def test_a_training_without_its_recipe_is_not_gone_on_with(photographs, teacher, tmp_path):
    run(photographs, teacher, tmp_path)
    (tmp_path / "decoder" / "recipe.json").unlink()
    with pytest.raises(TrainingError, match="has checkpoints but no recipe.json"):
        run(photographs, teacher, tmp_path, resume=True)

"""Trainings that stop: kills, errors, damaged files, and the same bits afterwards."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainings import SMALL, arguments, log, run, same

from taesd_jax import load
from taesd_jax.errors import TrainingError
from taesd_jax.training.records import locked

pytest.importorskip("grain")

# Grain calls what its own dependencies have since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROOT = Path(__file__).parents[2]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.process
def test_killed_at_any_moment_it_goes_on_with_the_same_bits(photographs, teacher, tmp_path):
    seed = time.time_ns()  # other moments each time
    print(f"the moments' seed is {seed}")
    rng = random.Random(seed)
    killed = 0
    more = ["--num-crops", 40, "--losses", "mse=1", "adversarial=0.01", "--replay-size", "8"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        # The processes share what they compile.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(folder):
        words = arguments(photographs, teacher, folder, *more, "--resume", "auto")
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
    want = run(photographs, teacher, tmp_path / "whole", eval_every=2, recipe=recipe)

    def stop(event):
        if event.get("step") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photographs, teacher, tmp_path / "cut", eval_every=2, recipe=recipe, progress=stop)
    with pytest.raises(
        TrainingError, match="has a training run; resume it, or name another folder"
    ):
        run(photographs, teacher, tmp_path / "cut", recipe=recipe)
    options = {"recipe": recipe, "resume": True}
    same(run(photographs, teacher, tmp_path / "cut", eval_every=2, **options), want)
    # Nothing is left to do, and the model is there again.
    (tmp_path / "cut" / "model_decoder.safetensors").unlink()
    same(run(photographs, teacher, tmp_path / "cut", **options), want)
    assert (tmp_path / "cut" / "model_decoder.safetensors").is_file()


def test_nothing_to_resume_is_an_error(photographs, teacher, tmp_path):
    folder = tmp_path / "mistyped"
    with pytest.raises(TrainingError, match=r"mistyped/decoder has no checkpoint to resume from; "):
        run(photographs, teacher, folder, resume=True)
    assert not folder.exists()
    run(photographs, teacher, folder, recipe={"steps": 1}, resume="auto")
    assert (folder / "model_decoder.safetensors").is_file()
    with pytest.raises(ValueError, match="resume must be False, True or 'auto', got 'atuo'"):
        run(photographs, teacher, folder, resume="atuo")


def test_only_the_same_training_is_resumed(photographs, teacher, tmp_path):
    run(photographs, teacher, tmp_path)
    for changes, name in (
        ({"recipe": {"learning_rate": 1e-3}}, "learning_rate"),
        ({"config": SMALL.replace(decoder_block_out_channels=(8, 8, 8, 4))}, "config"),
        ({"teacher": lambda x: x[:, ::8, ::8, :1].repeat(4, -1)}, "teacher"),
    ):
        options = {"teacher": teacher, **changes}
        with pytest.raises(TrainingError, match=f"has a training run with other {name}"):
            run(photographs, options.pop("teacher"), tmp_path, resume=True, **options)


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, photographs, teacher, tmp_path):
    whole = run(photographs, teacher, tmp_path / "whole", eval_every=2)
    run(photographs, teacher, tmp_path / "run", eval_every=2)
    older, newest = sorted((tmp_path / "run" / "decoder" / "checkpoints").iterdir())
    assert [older.name, newest.name] == ["000000004.npz", "000000006.npz"]
    (tmp_path / "run" / "model_decoder.safetensors").unlink()
    damage(newest)
    options = {"eval_every": 2, "resume": True}
    with pytest.warns(UserWarning, match=r"000000006\.npz: cannot be read.*the one before"):
        same(run(photographs, teacher, tmp_path / "run", **options), whole)
    for path in (older, newest):
        damage(path)
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(TrainingError, match="no checkpoint is whole: .*; delete .*decoder to"),
    ):
        run(photographs, teacher, tmp_path / "run", **options)


def test_a_damaged_recipe_is_named(photographs, teacher, tmp_path):
    run(photographs, teacher, tmp_path, recipe={"steps": 1})
    (tmp_path / "decoder" / "recipe.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"recipe\.json must hold an object"):
        run(photographs, teacher, tmp_path, recipe={"steps": 1}, resume=True)


def test_a_folder_is_kept_to_one_training(photographs, teacher, tmp_path):
    with (
        locked(tmp_path / "decoder", blocking=False),
        pytest.raises(TrainingError, match="another process trains in"),
    ):
        run(photographs, teacher, tmp_path)


def test_a_training_without_its_recipe_is_not_resumed(photographs, teacher, tmp_path):
    run(photographs, teacher, tmp_path)
    (tmp_path / "decoder" / "recipe.json").unlink()
    with pytest.raises(TrainingError, match="has checkpoints but no recipe.json"):
        run(photographs, teacher, tmp_path, resume=True)

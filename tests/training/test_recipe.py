"""Recipes and teachers: what is told apart and what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jax.tree_util import Partial
from trainings import TWO_STAGES, model

from taesd_jax import AutoencoderTiny, cli, encode, training
from taesd_jax.errors import TrainingError
from taesd_jax.training import Recipe, RunOptions
from taesd_jax.training.step import make_context
from taesd_jax.training.teachers import teacher_digest

ROOT = Path(__file__).parents[2]


def test_functions_and_models_are_told_apart():
    one, other = model(1), model(2)

    def run(params, x):
        return encode(params, x, config=TWO_STAGES)

    bent = AutoencoderTiny(one.params, TWO_STAGES.replace(act_fn="silu"))
    everyone = [one, other, bent, Partial(run, one.params), Partial(run, other.params)]
    everyone += [lambda x, scale=scale: scale * run(one.params, x) for scale in (1, 2)]
    assert len({teacher_digest(teacher, size=16) for teacher in everyone}) == len(everyone)
    assert teacher_digest(one, size=16) == teacher_digest(model(1), size=16)


def only(component):
    return AutoencoderTiny({component: model().params[component]}, TWO_STAGES)


def wide():
    return model(config=TWO_STAGES.replace(decoder_block_out_channels=(16, 16)))


def no_decoder():
    return only("encoder")


def no_encoder():
    return only("decoder")


@pytest.mark.parametrize(
    ("student", "changes", "teacher", "message"),
    [
        (model, {"teacher_blend": 0.5}, lambda: len, "need a model of the TAESD family"),
        (model, {"losses": {"encoded_patches": 1.0}}, lambda: len, "encoded_patches and teacher_"),
        (model, {"losses": {"encoded_patches": 1.0}}, no_encoder, "the encoder is not loaded"),
        (model, {"losses": {"features": 1.0}}, no_decoder, "the decoder is not loaded"),
        (wide, {"losses": {"features": 1.0}}, model, "one of them as wide in both"),
        (
            no_decoder,
            {"component": "encoder", "losses": {"dssim": 1.0}},
            model,
            "need a student that also has a decoder",
        ),
        (model, {"frozen_stages": 5}, model, "cannot be split after 5 stages"),
    ],
)
def test_what_a_training_needs_is_said(student, changes, teacher, message):
    with pytest.raises(ValueError, match=message):
        make_context(student(), Recipe(**changes), teacher())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"component": "both"}, "component must be one of encoder, decoder, got 'both'"),
        (
            {"component": "encoder", "losses": {"adversarial": 1.0}},
            "losses for the encoder are mse, .* got adversarial",
        ),
        ({"losses": {"lpips": 1.0}}, "losses for the decoder are .* got lpips"),
        ({"losses": {}}, "weights above 0"),
        ({"losses": {"mse": 0.0}}, "weights above 0"),
        ({"losses": {"mse": float("inf")}}, "finite weights above 0"),
        ({"optimizer": "adamw"}, "optimizer must be one of muon, amsgrad, got"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"frozen_stages": -1}, "frozen_stages must be a whole number of at least 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"steps": 1.5}, "steps must be a whole number of at least 1, got 1.5"),
        ({"steps": True}, "steps must be a whole number of at least 1, got True"),
        ({"crop_candidates": 0}, "crop_candidates must be a whole number of at least 1"),
        ({"num_crops": 0}, "num_crops must be a whole number of at least 1, got 0"),
        ({"steps": None}, "steps must be a whole number of at least 1, got None"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"teacher_blend": 1.5}, "teacher_blend must be a finite number from 0 to 1"),
        ({"sharpen": -0.1}, "sharpen must be a finite number from 0 to 10"),
        ({"saturation": -1.0}, "saturation must be a finite number from 0 to 10"),
        ({"hue": 2.0}, "hue must be a finite number from 0 to 1"),
        ({"ema_decay": 1.0}, "ema_decay must be a finite number from 0 to"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number of at least 1e-12"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number .* got inf"),
        ({"max_downscale": float("inf")}, "max_downscale must be a finite number .* got inf"),
        (
            {"component": "encoder", "teacher_blend": 0.5},
            "teacher_blend changes target images, .* add one of mse_eighth, dssim",
        ),
        ({"component": "encoder", "sharpen": 0.5}, "sharpen changes target images"),
        ({"losses": {"features": 1.0}, "sharpen": 0.5}, "add one of mse, amplitude"),
        ({"losses": {"patches": 1.0}, "crop_size": 16}, "patches needs a crop_size of at least 24"),
        ({"losses": {"encoded_patches": 1.0}, "crop_size": 16}, "needs a crop_size of at least 24"),
        ({"losses": {"dssim": 1.0}, "crop_size": 8}, "dssim needs a crop_size of at least 11"),
        ({"losses": {"texture": 1.0}, "crop_size": 8}, "texture needs a crop_size of at least 9"),
        ({"losses": {"mse_eighth": 1.0}, "crop_size": 12}, "a multiple of 8, got 12"),
        ({"losses": {"adversarial": 1.0}, "replay_size": 4}, "replay_size must be at least batch"),
    ],
)
def test_recipes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


def test_numbers_of_steps_are_checked():
    with pytest.raises(ValueError, match="eval_every must be 1 or more, got 0"):
        RunOptions(eval_every=0)


def test_recipes_need_no_extra():
    code = """
import sys
from flax import nnx
before = set(sys.modules)  # with what flax itself imports
import taesd_jax.cli.train, taesd_jax.training.trainer
from taesd_jax.training import Recipe, list_images
Recipe(losses={"mse": 1.0, "adversarial": 1.0})
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not {"optax", "grain"} & new, new
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["optax", "grain"])
def test_without_the_extra_a_training_says_what_to_install(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    message = f"training needs {module}: pip install 'taesd-jax[train]'"
    with pytest.raises(TrainingError, match=re.escape(message)):
        training.train(tmp_path, [], student=model(), teacher=model(), recipe=Recipe())
    assert cli.main(["train", "decoder", str(tmp_path), "-o", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err == f"taesd-jax: error: {message}\n"

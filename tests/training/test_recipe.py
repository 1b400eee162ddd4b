"""Recipes and teachers: what is told apart and what is refused."""

import pytest
from jax.tree_util import Partial
from trainings import TWO_STAGES, model

from taesd_jax import AutoencoderTiny, encode
from taesd_jax.training.recipe import Recipe
from taesd_jax.training.step import make_step
from taesd_jax.training.teachers import teacher_digest


def test_functions_and_models_are_told_apart():
    one, other = model(1), model(2)

    def run(params, x):
        return encode(params, x, config=TWO_STAGES)

    bent = AutoencoderTiny(one.params, TWO_STAGES.replace(act_fn="silu"))
    everyone = [one, other, bent, Partial(run, one.params), Partial(run, other.params)]
    everyone += [lambda x, scale=scale: scale * run(one.params, x) for scale in (1, 2)]
    assert len({teacher_digest(teacher, side=16) for teacher in everyone}) == len(everyone)
    assert teacher_digest(one, side=16) == teacher_digest(model(1), side=16)


def test_what_a_teacher_must_have_is_said():
    function = lambda x: x[:, ::2, ::2, :1].repeat(4, -1)  # noqa: E731
    with pytest.raises(ValueError, match="need a teacher of the family, not a function"):
        make_step(TWO_STAGES, Recipe(imitate=0.5), function)
    with pytest.raises(ValueError, match="encoded_patches and imitation need a teacher"):
        make_step(TWO_STAGES, Recipe(losses={"encoded_patches": 1.0}), function)
    only = AutoencoderTiny({"decoder": model().params["decoder"]}, TWO_STAGES)
    with pytest.raises(ValueError, match="the encoder is not loaded"):
        make_step(TWO_STAGES, Recipe(losses={"encoded_patches": 1.0}), only)
    only = AutoencoderTiny({"encoder": model().params["encoder"]}, TWO_STAGES)
    with pytest.raises(ValueError, match="the decoder is not loaded"):
        make_step(TWO_STAGES, Recipe(losses={"features": 1.0}), only)
    with pytest.raises(ValueError, match="need a student that has a decoder, too"):
        make_step(TWO_STAGES, Recipe(half="encoder", losses={"dssim": 1.0}), model())
    wide = TWO_STAGES.replace(decoder_block_out_channels=(16, 16))
    with pytest.raises(ValueError, match="one of them as wide in both"):
        make_step(wide, Recipe(losses={"features": 1.0}), model())
    with pytest.raises(ValueError, match="response needs examples: images"):
        make_step(TWO_STAGES, Recipe(losses={"response": 1.0}), model())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"half": "both"}, "half must be"),
        ({"half": "encoder", "losses": {"latents": 1.0}}, "losses of an encoder are mse, mae, amp"),
        ({"losses": {"lpips": 1.0}}, "losses of a decoder are .* got lpips"),
        ({"losses": {}}, "weights above 0"),
        ({"losses": {"mse": 0.0}}, "weights above 0"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"frozen": -1}, "frozen must be 0 or more"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"imitate": 1.5}, "imitate must be from 0 to 1"),
        ({"half": "encoder", "imitate": 0.5}, "imitate is of images: an encoder has"),
        ({"half": "encoder", "sharpen": 0.5}, "sharpen is of images: an encoder has"),
        ({"sharpen": -0.1}, "sharpen must be from 0 to 10"),
        ({"candidates": 0}, "candidates must be 1 or more"),
        ({"losses": {"patches": 1.0}, "side": 16}, "patches needs a side of 24"),
        ({"losses": {"encoded_patches": 1.0}, "side": 16}, "encoded_patches needs a side of 24"),
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
        ({"losses": {"features": 1.0}, "sharpen": 0.5}, "sharpen is of images: a decoder has"),
    ],
)
def test_recipes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)

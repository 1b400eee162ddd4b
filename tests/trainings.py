"""A small model, a short training of it, and its log."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from taesd_jax import AutoencoderTiny, AutoencoderTinyConfig, init
from taesd_jax.training import Recipe, RunOptions, list_images, new_student, train
from taesd_jax.training.state import init_state
from taesd_jax.training.step import make_context, train_step

SMALL = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8, 8, 8),
    decoder_block_out_channels=(8, 8, 8, 8),
    num_encoder_blocks=(1, 1, 1, 1),
    num_decoder_blocks=(1, 1, 1, 1),
)
TWO_STAGES = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(8, 8),
    num_encoder_blocks=(1, 1),
    num_decoder_blocks=(1, 1),
)


def model(seed=0, config=TWO_STAGES):
    return AutoencoderTiny(init(jax.random.key(seed), config=config), config)


def batch(n=8, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return {"image": jnp.asarray(rng.uniform(-1, 1, (n, size, size, 3)), "f4")}


def take_steps(recipe, batches, *, teacher, student=None, examples=None):
    """Return the state after a step for each batch, and the losses of each step."""
    student = student or model(2)
    context = make_context(student, recipe, teacher, examples=examples)
    state = init_state(student.params[recipe.component], student.config, recipe)
    losses = []
    for one in batches:
        state, parts = train_step(state, one, context)
        losses.append(parts)
    return state, losses


def arguments(photographs, teacher, folder, *more, component="decoder"):
    fixed = ["--steps", 12, "--batch-size", 4, "--crop-size", 32, "--log-every", 2]
    fixed += ["--eval-every", 4, "--held-out", photographs / "cat.png", "--eval-size", 64]
    given = ["--teacher", teacher] if teacher else []
    words = ["train", component, photographs, *given, "-o", folder, *fixed, *more]
    return [str(word) for word in words]


def run(photographs, teacher, folder, *, recipe=None, config=SMALL, **options):
    fixed = {"steps": 6, "batch_size": 4, "crop_size": 32, "warmup": 1}
    recipe = Recipe(**(fixed | (recipe or {})))
    return train(
        folder,
        list_images([photographs]),
        student=new_student(recipe.component, config, seed=2),
        teacher=teacher if callable(teacher) else AutoencoderTiny.from_pretrained(teacher),
        recipe=recipe,
        options=RunOptions(**({"log_every": 2} | options)),
    )


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)

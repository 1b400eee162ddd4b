"""A small model, a short training of it, and its log."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from taesd_jax import AutoencoderTiny, AutoencoderTinyConfig, init
from taesd_jax.training.crops import list_pictures
from taesd_jax.training.recipe import Recipe
from taesd_jax.training.trainer import new_student, train

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


def batch(n=8, side=16, seed=0):
    rng = np.random.default_rng(seed)
    return {"image": jnp.asarray(rng.uniform(-1, 1, (n, side, side, 3)), "f4")}


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

"""One compiled step of training: ask the teacher, move the student towards it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..kernels import Convolve, convolve
from ..model.functional import Params
from ..model.layers import Component
from ..strategies.run import decode
from ..strategies.sharding import is_sharded
from .discriminator import Buffer, corrected_target, discriminator_loss, replay
from .features import feature_distance, response_distance, stage_features
from .kernel_gradients import convolve_quickly
from .losses import LOSSES, encoded_patches, mse, patches
from .optimizers import critic_optimizer, optimizer_of
from .recipe import LATENT_LOSSES, Recipe
from .state import State, frozen_layers
from .teachers import Batch, Teacher, answer, as_pytree, encode_with, measure_responses

Losses = dict[str, jax.Array]


def make_step(
    config: AutoencoderTinyConfig,
    recipe: Recipe,
    teacher: Teacher,
    *,
    decoder: Params | None = None,
    examples: jax.Array | None = None,
) -> Callable[[State, Batch], tuple[State, Losses]]:
    """Return the compiled step: state and batch -> new state and losses.

    The batch may be sharded over a mesh; the state then lies whole on every device. The memory of
    the state that goes in is given back.

    Args:
        config: Of the student.
        recipe: What to do.
        teacher: See `Teacher`; features, response, encoded_patches and imitation need a model.
        decoder: Params of the student's decoder, for an encoder's losses of images.
        examples: Images (n, h, w, 3) to measure the teacher's response with, for that loss.

    Returns:
        A function. Its batch has "image" (n, h, w, 3) in [-1, 1] or of 8 bits; the teacher's
        results, "latent" and likewise "decoded", are computed where they are not in it.

    Raises:
        ValueError: The recipe asks for what the teacher or the student does not have.
    """
    frozen_layers(config, recipe)
    encoded = "encoded_patches" in recipe.losses
    if recipe.matches_features or recipe.imitate or encoded:
        if not isinstance(teacher, AutoencoderTiny):
            raise ValueError(
                "features, response, encoded_patches and imitation need a teacher of the family, "
                "not a function"
            )
        if encoded:
            teacher.require("encoder")
        if recipe.imitate:
            teacher.require("decoder")
        if recipe.matches_features:
            teacher.require(recipe.half)
            if not _shared(recipe.half, config, teacher.config):
                raise ValueError(
                    "features and response need as many stages in student and teacher, one of them "
                    "as wide in both"
                )
    teacher = as_pytree(teacher)
    if recipe.half == "decoder" or not recipe.makes_images:
        decoder = None
    elif decoder is None:
        raise ValueError(
            "an encoder's losses of images need a student that has a decoder, too, with the "
            "teacher's latents: name one to start from"
        )
    weights: list[jax.Array] = []
    if "response" in recipe.losses:
        if examples is None:
            raise ValueError(
                "the loss response needs examples: images to measure the teacher's response with"
            )
        weights = measure_responses(teacher, examples, half=recipe.half)

    def run(
        state: State,
        batch: Batch,
        teacher: Any,
        decoder: Any,
        weights: list[jax.Array],
        convolve: Convolve,
    ) -> tuple[State, Losses]:
        work: Any = functools.partial(_step, config=config, recipe=recipe, convolve=convolve)
        sharding = jax.typeof(batch["image"]).sharding
        if any(axis is not None for axis in sharding.spec):
            # Of Explicit axes too XLA's partitioner decides how the devices share the work.
            whole = NamedSharding(sharding.mesh, PartitionSpec())
            work = jax.sharding.auto_axes(work, out_sharding=whole)
        return work(state, batch, teacher, decoder, weights)

    compiled = jax.jit(run, donate_argnums=0, static_argnames="convolve")

    def step(state: State, batch: Batch) -> tuple[State, Losses]:
        # The quick gradient takes one image after the other, which devices could not share.
        quick = convolve if is_sharded(batch["image"]) else convolve_quickly
        return compiled(state, dict(batch), teacher, decoder, weights, convolve=quick)

    return step


def _step(
    state: State,
    batch: Batch,
    teacher: Teacher,
    decoder: Params | None,
    weights: list[jax.Array],
    *,
    config: AutoencoderTinyConfig,
    recipe: Recipe,
    convolve: Convolve,
) -> tuple[State, Losses]:
    batch = answer(teacher, batch, recipe)
    judge = state.critic[0] if state.critic else None
    find = jax.value_and_grad(_loss, has_aux=True)
    frozen = frozen_layers(config, recipe)
    kept = {name: value for name, value in state.params.items() if name in frozen}
    moved = {name: value for name, value in state.params.items() if name not in frozen}
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
    fixed = (kept, batch, teacher, decoder, weights, judge, key)
    (total, (parts, result)), gradient = find(moved, *fixed, config, recipe, convolve)
    moved, moments = _update(optimizer_of(recipe), gradient, state.optimizer, moved)
    params = kept | moved
    # Short at first, so that the first random params are soon forgotten.
    done = state.step.astype(jnp.float32)
    decay = jnp.minimum(recipe.ema, (1 + done) / (10 + done))
    average = {name: value for name, value in state.ema.items() if name not in frozen}
    average = kept | jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, moved)
    critic = state.critic
    if critic is not None:
        critic, parts["discriminator"] = _judge(key, critic, batch, result, convolve)
    return State(state.step + 1, params, average, moments, critic), {"total": total} | parts


def _loss(
    moved: Params,
    kept: Params,
    batch: Batch,
    teacher: Teacher,
    decoder: Params | None,
    weights: list[jax.Array],
    judge: Params | None,
    key: jax.Array,
    config: AutoencoderTinyConfig,
    recipe: Recipe,
    convolve: Convolve,
) -> tuple[jax.Array, tuple[Losses, jax.Array]]:
    x = batch["image" if recipe.half == "encoder" else "latent"].astype(recipe.dtype)
    options: dict[str, Any] = {"half": recipe.half, "config": config, "remat": recipe.remat}
    result, features = stage_features(kept | moved, x, convolve=convolve, **options)
    result, parts, total = result.astype(jnp.float32), {}, jnp.zeros((), jnp.float32)
    image = result
    if decoder is not None:
        image = decode(
            {"decoder": decoder},
            result.astype(recipe.dtype),
            config=config,
            remat=recipe.remat,
        ).astype(jnp.float32)
    wanted = [batch[f"feature_{i}"] for i in range(len(features) * recipe.matches_features)]
    for name in recipe.losses:
        if name == "features":
            parts[name] = feature_distance(features, wanted)
        elif name == "response":
            parts[name] = response_distance(features, wanted, weights)
        elif name == "latents":
            parts[name] = mse(encode_with(teacher, result), batch["latent"])
        elif name == "adversarial":
            assert judge is not None
            target, apart = corrected_target(judge, batch["target"], result, batch["latent"])
            total += recipe.losses[name] * mse(result, target)
            parts[name] = apart
        elif name == "patches":
            parts[name] = patches(image, batch["target"], jax.random.fold_in(key, 1))
        elif name == "encoded_patches":
            assert isinstance(teacher, AutoencoderTiny)
            encoder = options | {"half": "encoder", "config": teacher.config}
            seen, wished = (
                stage_features(teacher.params["encoder"], x, convolve=convolve, **encoder)[1]
                for x in (image, batch["target"])
            )
            parts[name] = encoded_patches(seen, wished, jax.random.fold_in(key, 2))
        elif recipe.half == "encoder" and name in LATENT_LOSSES:
            parts[name] = LOSSES[name](result, batch["latent"])
        else:
            parts[name] = LOSSES[name](image, batch["target"])
        if name != "adversarial":
            total += recipe.losses[name] * parts[name]
    return total, (parts, result)


def _judge(
    key: jax.Array,
    critic: tuple[Params, Any, Buffer],
    batch: Batch,
    fake: jax.Array,
    convolve: Convolve,
) -> tuple[tuple[Params, Any, Buffer], jax.Array]:
    judge, moments, buffer = critic
    buffer, fakes, latents = replay(key, buffer, fake, batch["latent"])
    loss, gradient = jax.value_and_grad(discriminator_loss)(
        judge, batch["target"], fakes, batch["latent"], latents, convolve=convolve
    )
    judge, moments = _update(critic_optimizer(), gradient, moments, judge)
    return (judge, moments, buffer), loss


def _update(
    optimizer: optax.GradientTransformation, gradient: Params, moments: Any, params: Params
) -> tuple[Any, Any]:
    # optax raises a float to an integer count, which JAX's strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments


def _shared(half: Component, config: AutoencoderTinyConfig, teacher: AutoencoderTinyConfig) -> bool:
    name = f"{half}_block_out_channels"
    own, other = getattr(config, name), getattr(teacher, name)
    return len(own) == len(other) and any(map(operator.eq, own, other))

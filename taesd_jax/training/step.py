"""One step of a training run: ask the teacher, move the student towards its targets."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..model.functional import Params
from ..model.layers import split_layers
from ..strategies.run import decode
from ..strategies.strategy import Full
from .discriminator import DiscriminatorState, discriminator_loss, replay
from .features import output_sensitivity, stage_features
from .optimizers import apply_gradient, discriminator_optimizer, make_optimizer
from .recipe import Recipe
from .registry import LOSSES
from .state import State, split_frozen
from .teachers import Batch, Teacher, add_targets, as_pytree, encode_with

Losses = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepContext:
    """What every step of a training run reads; a pytree, made by `make_context`.

    Attributes:
        config: The student's architecture.
        recipe: What is learnt.
        teacher: See `as_pytree`.
        decoder: Params that make images of an encoder's latents; None where no loss needs them.
        sensitivity: The teacher's `output_sensitivity`; empty where no loss needs it.
    """

    config: AutoencoderTinyConfig = dataclasses.field(metadata={"static": True})
    recipe: Recipe = dataclasses.field(metadata={"static": True})
    teacher: Any
    decoder: Params | None
    sensitivity: list[jax.Array]


def make_context(
    student: AutoencoderTiny,
    recipe: Recipe,
    teacher: Teacher,
    *,
    examples: jax.Array | None = None,
) -> StepContext:
    """Return the context of a training's steps.

    Args:
        student: Its config is read, and its decoder for an encoder's losses of images.
        recipe: What is learnt.
        teacher: A function will do unless the recipe compares features or has a teacher_blend.
        examples: Images (n, h, w, 3) to measure the sensitivity of the output with, for `response`.

    Raises:
        ValueError: The recipe needs what the teacher or the student does not have.
    """
    component, config = recipe.component, student.config
    split_layers(component, config, recipe.frozen_stages)  # raises for too many
    _check_teacher(config, recipe, teacher)
    _check_sizes(config, recipe, teacher)
    decoder, sensitivity = None, []
    if component == "encoder" and recipe.compares_images:
        if "decoder" not in student.params:
            raise ValueError(
                "an encoder's losses of images need a student that also has a decoder, for the "
                "teacher's latents: start from such a model"
            )
        decoder = student.params["decoder"]
    if recipe.needs("sensitivity"):
        assert isinstance(teacher, AutoencoderTiny)
        assert examples is not None
        x = examples if component == "encoder" else encode_with(teacher, examples)
        sensitivity = output_sensitivity(
            teacher.params[component],
            x,
            jax.random.key(0),
            component=component,
            config=teacher.config,
        )
        jax.block_until_ready(sensitivity)  # a caller may change its examples now
    return StepContext(config, recipe, as_pytree(teacher), decoder, sensitivity)


def _check_teacher(config: AutoencoderTinyConfig, recipe: Recipe, teacher: Teacher) -> None:
    component, needed = recipe.component, set()
    if recipe.needs("features"):
        needed.add(component)
    if recipe.needs("encoder_features"):
        needed.add("encoder")
    if recipe.teacher_blend:
        needed.add("decoder")
    if not needed:
        return
    if not isinstance(teacher, AutoencoderTiny):
        raise ValueError(
            "features, response, encoded_patches and teacher_blend need a model of the TAESD "
            "family as teacher, not a function"
        )
    for name in needed:
        teacher.check_loaded(name)
    widths, teacher_widths = (
        getattr(c, f"{component}_block_out_channels") for c in (config, teacher.config)
    )
    as_wide = len(widths) == len(teacher_widths) and any(map(operator.eq, widths, teacher_widths))
    if recipe.needs("features") and not as_wide:
        raise ValueError(
            f"features and response need as many stages in student and teacher, one of them as "
            f"wide in both, got widths {widths} and {teacher_widths}"
        )


def _check_sizes(config: AutoencoderTinyConfig, recipe: Recipe, teacher: Teacher) -> None:
    size, factor = recipe.crop_size, config.spatial_factor
    if size % factor:
        raise ValueError(f"crop_size must be a multiple of {factor}, got {size}")
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    expected = (1, size // factor, size // factor, config.latent_channels)
    if (shape := jax.eval_shape(encode_with, as_pytree(teacher), images).shape) != expected:
        raise ValueError(
            f"the teacher must return latents {expected} for images {images.shape}, as the "
            f"student's config says, got {shape}"
        )


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state: State, batch: Batch, context: StepContext) -> tuple[State, Losses]:
    """Run a step on a batch, see `add_targets`; return the new state and the losses.

    The batch may be sharded over a mesh; the state is then replicated. The memory of the given
    state is donated.
    """
    step: Any = _step
    sharding = jax.typeof(batch["image"]).sharding
    if any(axis is not None for axis in sharding.spec):
        # For Explicit axes too, XLA's partitioner decides how devices share the work.
        replicated = NamedSharding(sharding.mesh, PartitionSpec())
        step = jax.sharding.auto_axes(_step, out_sharding=replicated)
    return step(state, batch, context)


def _step(state: State, batch: Batch, context: StepContext) -> tuple[State, Losses]:
    config, recipe = context.config, context.recipe
    targets = add_targets(context.teacher, batch, recipe)
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
    frozen, trainable = split_frozen(state.params, config, recipe)
    discriminator = state.discriminator
    (total, (losses, output)), gradient = jax.value_and_grad(_loss, has_aux=True)(
        trainable, frozen, targets, context, discriminator, key
    )
    trainable, moments = apply_gradient(
        make_optimizer(recipe), gradient, state.optimizer, trainable
    )
    # The average is short at first, so that it soon forgets the initial params.
    done = state.step.astype(jnp.float32)
    decay = jnp.minimum(recipe.ema_decay, (1 + done) / (10 + done))
    _, ema = split_frozen(state.ema, config, recipe)
    ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, trainable)
    if discriminator is not None:
        discriminator, losses["discriminator"] = _train_discriminator(
            discriminator, targets, output, key
        )
    state = State(state.step + 1, frozen | trainable, frozen | ema, moments, discriminator)
    return state, {"total": total} | losses


def _loss(
    trainable: Params,
    frozen: Params,
    targets: dict[str, Any],
    context: StepContext,
    discriminator: DiscriminatorState | None,
    key: jax.Array,
) -> tuple[jax.Array, tuple[Losses, jax.Array]]:
    """Return the weighted sum of the losses, each loss, and the student's output."""
    config, recipe, teacher = context.config, context.recipe, context.teacher
    run = functools.partial(stage_features, remat=recipe.remat)
    x = targets["image" if recipe.component == "encoder" else "latent"].astype(recipe.dtype)
    output, features = run(frozen | trainable, x, component=recipe.component, config=config)
    output = output.astype(jnp.float32)
    images = output
    if context.decoder is not None:
        latents, params = output.astype(recipe.dtype), {"decoder": context.decoder}
        strategy = Full(remat=recipe.remat)
        images = decode(params, latents, config=config, strategy=strategy).astype(jnp.float32)

    latent, target = targets["latent"], targets["target"]
    compared: dict[str, Any] = {
        "output": (output, latent if recipe.component == "encoder" else target),
        "images": (images, target),
        "features": (features, targets.get("features")),
    }
    if recipe.needs("encoder_features"):
        see = functools.partial(
            run, teacher.params["encoder"], component="encoder", config=teacher.config
        )
        compared["encoder_features"] = tuple(see(x)[1] for x in compared["images"])
    extras = {
        "key": jax.random.fold_in(key, 1),
        "sensitivity": context.sensitivity,
        "discriminator": None if discriminator is None else discriminator.params,
        "latent": latent,
    }
    losses = {}
    for name in recipe.losses:
        loss = LOSSES[name]
        options = {extra: extras[extra] for extra in loss.extras}
        losses[name] = loss.function(*compared[loss.compares], **options)
    total = sum((recipe.losses[name] * losses[name] for name in losses), jnp.zeros(()))
    return total, (losses, output)


def _train_discriminator(
    state: DiscriminatorState,
    targets: dict[str, Any],
    fakes: jax.Array,
    key: jax.Array,
) -> tuple[DiscriminatorState, jax.Array]:
    buffer, fakes, latents = replay(key, state.replay, fakes, targets["latent"])
    loss, gradient = jax.value_and_grad(discriminator_loss)(
        state.params, targets["target"], fakes, targets["latent"], latents
    )
    params, moments = apply_gradient(
        discriminator_optimizer(), gradient, state.optimizer, state.params
    )
    return DiscriminatorState(params, moments, buffer), loss

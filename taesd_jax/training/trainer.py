"""A training in a folder: checkpoints, a log, samples, and the model at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .. import weights
from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import TrainingError
from ..io.images import from_uint8, write_image
from ..model.functional import Params, init
from ..model.layers import COMPONENTS, Component, build_layers
from ..strategies.sharding import replicate, shard_images
from ..weights.files import digest_tree
from .crops import RECIPE_FILE, Crops, describe_images
from .evaluation import Evaluator
from .recipe import Recipe
from .records import Checkpoints, Log, check_or_write_metadata, locked
from .run_options import RunOptions
from .state import State, check_finite, init_state
from .step import StepContext, make_context, train_step
from .teacher_cache import TeacherCache, iter_batches
from .teachers import Teacher, teacher_digest

_NUM_EXAMPLES = 16  # first crops, which the teacher's sensitivity is measured on


@dataclasses.dataclass(frozen=True)
class _Training:
    """A training that is ready to run."""

    folder: Path  # of the component
    model_path: Path
    student: AutoencoderTiny
    context: StepContext
    source: Crops | TeacherCache
    evaluator: Evaluator | None
    metadata: dict[str, Any]
    options: RunOptions


def train(
    folder: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    student: AutoencoderTiny,
    teacher: Teacher,
    recipe: Recipe,
    options: RunOptions | None = None,
) -> Params:
    """Train one component of a model and write `folder`/model_{encoder,decoder}.safetensors.

    Trainings of both components may share a folder; `folder`/model then names a complete model.
    The student's other component is written too, unless the folder already has one.
    `folder`/{encoder,decoder} gets recipe.json, log.jsonl, samples and checkpoints. On a CPU a
    training that was stopped at any moment and is resumed gives the same bits as one that was not.

    Args:
        folder: Of the training.
        images: Image files to take crops of, see `list_images`.
        student: Model to start from. Besides the component that is trained, an encoder's losses of
            images need its decoder, which does not change.
        teacher: A model of the TAESD family, or a function from images to latents that JAX can
            trace.
        recipe: What is learnt.
        options: How it runs; the defaults of `RunOptions` otherwise.

    Returns:
        {component: average of its params}.

    Raises:
        TrainingError: The folder has a training and `resume` is not set, or another training, or
            another decoder than the one for an encoder's images; a loss or param is not finite.
        CheckpointError: The other component in the folder cannot be read.
        MediaFileError: No image can be used.
        ValueError: The recipe or options do not fit the student, the teacher or each other.
    """
    options = options or RunOptions()
    training = _prepare(Path(folder).absolute(), images, student, teacher, recipe, options)
    with locked(training.folder, blocking=False):
        state = _run_steps(training)
        return _finish(training, state)


def _prepare(
    folder: Path,
    images: Sequence[str | os.PathLike[str]],
    student: AutoencoderTiny,
    teacher: Teacher,
    recipe: Recipe,
    options: RunOptions,
) -> _Training:
    """Check all that can be checked before the first step."""
    component, mesh = recipe.component, options.mesh
    student.check_loaded(component)
    options.check_recipe(recipe)
    crops = Crops([Path(path) for path in images], recipe)
    crops[0]  # raises if no image can be used
    examples = None
    if recipe.needs("sensitivity"):
        examples = jnp.asarray(from_uint8(np.stack([crops[i] for i in range(_NUM_EXAMPLES)])))
    context = make_context(student, recipe, teacher, examples=examples)
    digest = teacher_digest(teacher, size=recipe.crop_size)
    metadata = recipe.to_dict() | {
        "config": student.config.to_dict(),
        "teacher": digest,
        "student": digest_tree((student.params[component], context.decoder)),
        "images": describe_images(crops.images),
        "devices": 1 if mesh is None else mesh.size,
    }
    stored, _ = _join(folder / "model", student, component)  # raises if they do not fit
    if context.decoder and digest_tree(stored["decoder"]) != digest_tree(context.decoder):
        raise TrainingError(
            f"{folder} has another decoder than the one that makes this encoder's images; name "
            f"another folder"
        )
    context = _replicate(context, mesh)
    source: Crops | TeacherCache = crops
    if recipe.num_crops is not None:
        cache = Path(options.teacher_cache or folder / "teacher_cache")
        source = TeacherCache(cache, crops, context.teacher, teacher_digest=digest)
    return _Training(
        folder / component,
        folder / "model",
        student,
        context,
        source,
        Evaluator(options, context) if options.held_out else None,
        metadata,
        options,
    )


def _run_steps(training: _Training) -> State:
    """Run the steps that are left and return the last state."""
    options, context, folder = training.options, training.context, training.folder
    recipe, source, mesh = context.recipe, training.source, options.mesh
    check_or_write_metadata(folder / RECIPE_FILE, training.metadata, resume=options.resume)
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        initial = init_state(training.student.params[recipe.component], context.config, recipe)
        state, start = checkpoints.restore(initial)
        if isinstance(source, TeacherCache):
            source.fill(lambda done, count: options.progress({"cached": done, "of": count}))
        log, state = Log(folder / "log.jsonl", start, options.progress), _replicate(state, mesh)
        since, last = time.perf_counter(), start
        for number, batch in enumerate(iter_batches(source, recipe, start), start + 1):
            state, losses = train_step(state, _shard(batch, mesh), context)
            ends = number == recipe.steps
            logs, evaluates = (
                ends or number % every == 0 for every in (options.log_every, options.eval_every)
            )
            if not (logs or evaluates):
                continue
            # Before the clock: steps run ahead of Python, and are done once their values are here.
            values = {name: float(value) for name, value in losses.items()}
            pace = (number - last) / (time.perf_counter() - since)
            check_finite(values["total"], state, number)
            if logs:
                log.add({"step": number, **values, "steps_per_second": round(pace, 2)})
            if evaluates:
                if training.evaluator is not None:
                    metrics, sheet = training.evaluator.evaluate(state.ema)
                    log.add({"step": number, **metrics})
                    write_image(folder / "samples" / f"{number:07}.png", sheet)
                # Last, so that a checkpoint's log and samples are on disk before it.
                checkpoints.save(number, state)
            since, last = time.perf_counter(), number
    return state


def _finish(training: _Training, state: State) -> Params:
    """Write the model and return the trained component."""
    component, path = training.context.recipe.component, training.model_path
    trained = {component: jax.tree.map(np.asarray, state.ema)}
    model = AutoencoderTiny(training.student.params | trained, training.student.config)
    # A training of the other component may end at this moment.
    with locked(path.parent, blocking=True):
        params, config = _join(path, model, component)
        weights.save(path, params, config, format="original")
    return trained


def new_student(
    component: Component, config: AutoencoderTinyConfig, *, seed: int
) -> AutoencoderTiny:
    """Return a model with random params for one component; a decoder's images start mid-grey.

    Args:
        component: "encoder" or "decoder"; the other one is left out.
        config: Architecture.
        seed: Of the random numbers.
    """
    params = init(jax.random.key(seed), config=config)[component]
    if component == "decoder":
        last = params[build_layers(component, config)[-1].name]
        last["bias"] = last["bias"] + 0.5  # the last convolution's images are in [0, 1]
    return AutoencoderTiny({component: params}, config)


def _join(
    path: Path, model: AutoencoderTiny, component: Component
) -> tuple[Params, AutoencoderTinyConfig]:
    """Return a model's params and config, with the other component that is on disk, if any.

    Raises:
        TrainingError: The two do not fit together.
    """
    (other,) = set(COMPONENTS) - {component}
    file, config = path.with_name(f"{path.name}_{other}.safetensors"), model.config
    if not file.exists():
        return model.params, config
    stored = weights.load(file)
    ours, theirs = config.to_dict(), stored.config.to_dict()
    shared = [name for name in ours if other not in name and component not in name]
    if differing := [name for name in shared if ours[name] != theirs[name]]:
        raise TrainingError(
            f"{file} has another {', '.join(differing)} than this {component}; name another folder"
        )
    fields = {name: getattr(stored.config, name) for name in ours if other in name}
    params = {component: model.params[component], other: stored.params[other]}
    return params, config.replace(**fields)


def _replicate(tree: Any, mesh: Mesh | None) -> Any:
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    return jax.device_put(tree, replicate(mesh))


def _shard(batch: Any, mesh: Mesh | None) -> Any:
    if mesh is None:
        return jax.tree.map(jnp.asarray, batch)
    return jax.device_put(batch, shard_images(mesh, batch=mesh.axis_names[0]))

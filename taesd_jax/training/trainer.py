"""A training in a folder: checkpoints, a log, samples, and the model at the end."""

from __future__ import annotations

import dataclasses
import importlib.util
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
from ..io.listing import RECIPE_FILE
from ..model.functional import Params, init
from ..model.layers import COMPONENTS, Component, build_layers
from ..strategies.sharding import replicate, shard_images
from ..weights.files import digest_tree
from . import records
from .crops import Crops, describe_images
from .evaluation import Evaluator
from .recipe import Recipe
from .run_options import RunOptions
from .state import State, check_finite, init_state
from .step import StepContext, make_context, train_step
from .teacher_cache import TeacherCache, iter_batches
from .teachers import Teacher, teacher_digest

_NUM_EXAMPLES = 16  # first crops, which the teacher's sensitivity is measured on


@dataclasses.dataclass(frozen=True)
class _Training:
    """A training that is ready to run."""

    folder: Path  # of the component; its parent holds the model
    student: AutoencoderTiny
    context: StepContext
    source: Crops | TeacherCache
    evaluator: Evaluator | None
    metadata: dict[str, Any]
    options: RunOptions


def check_installed() -> None:
    """Raise TrainingError unless the extra `train` is installed."""
    for module in ("optax", "grain"):
        if importlib.util.find_spec(module) is None:
            raise TrainingError(f"training needs {module}: pip install 'taesd-jax[train]'")


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
        folder: Where all of it is written.
        images: Image files to take crops of, see `list_images`.
        student: Model to start from. Besides the component that is trained, an encoder's losses of
            images need its decoder, which does not change.
        teacher: A model of the TAESD family, or a function from images to latents that JAX can
            trace.
        recipe: What is learnt.
        options: How it runs.

    Returns:
        {component: average of its params}.

    Raises:
        TrainingError: The folder has a training and `resume` is not set, or another training, or
            another decoder than the one for an encoder's images; a loss or param is not finite; the
            extra `train` is not installed.
        CheckpointError: The other component in the folder cannot be read.
        MediaFileError: No image can be used.
        ValueError: The recipe or options do not fit the student, the teacher or each other.
    """
    check_installed()
    options = options or RunOptions()
    options.check_recipe(recipe)
    training = _prepare(Path(folder).absolute(), images, student, teacher, recipe, options)
    with records.locked(training.folder, blocking=False):
        _claim_folder(training)
        state = _run_steps(training)
        return _write_model(training, state)


def _prepare(
    folder: Path,
    images: Sequence[str | os.PathLike[str]],
    student: AutoencoderTiny,
    teacher: Teacher,
    recipe: Recipe,
    options: RunOptions,
) -> _Training:
    """Check all that can be checked before anything is written."""
    component, mesh = recipe.component, options.mesh
    student.check_loaded(component)
    crops = Crops([Path(path) for path in images], recipe)
    crops[0]  # raises if no image can be used
    examples = None
    if recipe.needs("sensitivity"):
        examples = jnp.asarray(from_uint8(np.stack([crops[i] for i in range(_NUM_EXAMPLES)])))
    context = make_context(student, recipe, teacher, examples=examples)
    digest = teacher_digest(teacher, size=recipe.crop_size)
    metadata = dataclasses.asdict(recipe) | {
        "config": student.config.to_dict(),
        "teacher": digest,
        "student": digest_tree((student.params[component], context.decoder)),
        "images": describe_images(crops.images),
        "devices": 1 if mesh is None else mesh.size,
    }
    stored, _ = _join(folder, student, component)  # raises if they do not fit
    if context.decoder and digest_tree(stored["decoder"]) != digest_tree(context.decoder):
        raise TrainingError(
            f"{folder} has another decoder than the one that makes this encoder's images; name "
            f"another folder"
        )
    context = _put(context, mesh)
    source: Crops | TeacherCache = crops
    if recipe.num_crops is not None:
        cache = Path(options.teacher_cache or folder / "teacher_cache")
        source = TeacherCache(cache, crops, context.teacher, teacher_digest=digest)
    evaluator = Evaluator(options, context) if options.held_out else None
    return _Training(folder / component, student, context, source, evaluator, metadata, options)


def _claim_folder(training: _Training) -> None:
    """Write what a new training is, or check that the one in the folder is the same."""
    folder, path = training.folder, training.folder / RECIPE_FILE
    if not records.list_checkpoints(folder):
        path.unlink(missing_ok=True)  # its training did not come far
    elif not path.exists():
        raise TrainingError(f"{folder} has checkpoints but no {path.name}; name another folder")
    elif not training.options.resume:
        raise TrainingError(f"{folder} has a training; resume it, or name another folder")
    records.check_or_write_metadata(path, training.metadata, kind="a training")


def _run_steps(training: _Training) -> State:
    """Run the steps that are left and return the last state."""
    options, context, folder = training.options, training.context, training.folder
    recipe, source, mesh = context.recipe, training.source, options.mesh
    initial = init_state(training.student.params[recipe.component], context.config, recipe)
    state = _put(records.restore_checkpoint(folder, initial), mesh)
    start = last = int(state.step)
    if isinstance(source, TeacherCache):
        source.fill(lambda done, count: options.progress({"cached": done, "of": count}))
    log = records.Log(folder / "log.jsonl", start, options.progress)
    since = time.perf_counter()
    for number, batch in enumerate(iter_batches(source, recipe, start), start + 1):
        state, losses = train_step(state, _put(batch, mesh, divided=True), context)
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
            records.save_checkpoint(folder, state)
        since, last = time.perf_counter(), number
    return state


def _write_model(training: _Training, state: State) -> Params:
    """Write the model and return the trained component."""
    component, folder = training.context.recipe.component, training.folder.parent
    trained = {component: jax.tree.map(np.asarray, state.ema)}
    model = AutoencoderTiny(training.student.params | trained, training.student.config)
    # A training of the other component may end at this moment.
    with records.locked(folder, blocking=True):
        weights.save(folder / "model", *_join(folder, model, component), format="original")
    return trained


def _join(
    folder: Path, model: AutoencoderTiny, component: Component
) -> tuple[Params, AutoencoderTinyConfig]:
    """Return a model's params and config, with the other component that is in the folder, if any.

    Raises:
        TrainingError: The two do not fit together.
    """
    (other,) = set(COMPONENTS) - {component}
    file, config = folder / f"model_{other}.safetensors", model.config
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


def _put(tree: Any, mesh: Mesh | None, *, divided: bool = False) -> Any:
    """Put arrays on every device of a mesh, or batches divided over its first axis."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = shard_images(mesh, batch=mesh.axis_names[0]) if divided else replicate(mesh)
    return jax.device_put(tree, sharding)


def new_student(
    component: Component, config: AutoencoderTinyConfig, *, seed: int
) -> AutoencoderTiny:
    """Return a model with random params for one component; a decoder's images start mid-grey.

    Args:
        component: "encoder" or "decoder"; the other one is left out.
        config: Architecture.
        seed: Seed of the random numbers.
    """
    params = init(jax.random.key(seed), config=config)[component]
    if component == "decoder":
        last = params[build_layers(component, config)[-1].name]
        last["bias"] = last["bias"] + 0.5  # the last convolution's images are in [0, 1]
    return AutoencoderTiny({component: params}, config)

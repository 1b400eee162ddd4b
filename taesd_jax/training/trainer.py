"""A training run in a folder: checkpoints, a log, samples, and the model at the end."""

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

from ..autoencoder import AutoencoderTiny
from ..errors import TrainingError
from ..io.images import from_uint8, write_image
from ..io.listing import RECIPE_FILE
from ..model.functional import Params
from ..strategies.sharding import replicate, shard_images
from ..weights.files import digest_tree
from . import records
from .crops import Crops, describe_images
from .evaluation import Evaluator
from .memory import check_sizes
from .recipe import Recipe
from .run_options import RunOptions
from .state import State, init_state, is_finite
from .step import StepContext, make_context, train_step
from .student import join_stored, write_model
from .teacher_cache import TeacherCache, iter_batches
from .teachers import Teacher, teacher_digest

_NUM_EXAMPLES = 16  # first crops, which the teacher's sensitivity is measured on


@dataclasses.dataclass(frozen=True)
class _Training:
    """What a training run needs, checked."""

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

    Training runs of both components may share a folder; `folder`/model then names a complete model.
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
        TrainingError: The folder has a training run and `resume` is not set, or has none and it is
            set, or has another one, or another decoder than the one for an encoder's images; a size
            cannot fit; a loss or param is not finite; the extra `train` is not installed.
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
        trained = {recipe.component: jax.tree.map(np.asarray, state.ema)}
        model = AutoencoderTiny(student.params | trained, student.config)
        write_model(training.folder.parent, model, recipe.component)
    return trained


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
    _check_resume(folder / component, options)
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    devices = 1 if mesh is None else mesh.size
    cache = Path(options.teacher_cache or folder / "teacher_cache")
    check_sizes(recipe, student.config, device, devices=devices, cache=cache)
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
        "devices": devices,
    }
    stored, _ = join_stored(folder, student, component)  # raises if they do not fit
    if context.decoder and digest_tree(stored["decoder"]) != digest_tree(context.decoder):
        raise TrainingError(
            f"{folder} has another decoder than the one that makes this encoder's images; name "
            f"another folder"
        )
    context = _put(context, mesh)
    source: Crops | TeacherCache = crops
    if recipe.num_crops is not None:
        source = TeacherCache(cache, crops, context.teacher, teacher_digest=digest)
    evaluator = Evaluator(options, context) if options.held_out else None
    return _Training(folder / component, student, context, source, evaluator, metadata, options)


def _check_resume(folder: Path, options: RunOptions) -> None:
    """Raise TrainingError unless the folder has a training run where one is to be resumed."""
    if records.list_checkpoints(folder):
        if not (folder / RECIPE_FILE).exists():
            raise TrainingError(
                f"{folder} has checkpoints but no {RECIPE_FILE}; name another folder"
            )
        if not options.resume:
            raise TrainingError(f"{folder} has a training run; resume it, or name another folder")
    elif options.resume is True:
        raise TrainingError(
            f"{folder} has no checkpoint to resume from; with resume='auto' (--resume auto) a "
            f"training starts there if there is none"
        )


def _claim_folder(training: _Training) -> None:
    """Write what a new training is, or check that the one in the folder is the same."""
    path = training.folder / RECIPE_FILE
    _check_resume(training.folder, training.options)  # another process may have trained meanwhile
    if not records.list_checkpoints(training.folder):
        path.unlink(missing_ok=True)  # its training did not come far
    records.check_or_write_metadata(path, training.metadata, kind="a training run")


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
        _check_finite(values["total"], state, folder)
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


def _check_finite(loss: float, state: State, folder: Path) -> None:
    """Raise TrainingError rather than keep a state that nothing can be learnt from again."""
    if np.isfinite(loss) and is_finite((state.params, state.ema)):
        return
    kept = "".join(f"; {path} is kept" for path in records.list_checkpoints(folder)[:1])
    raise TrainingError(
        f"loss or params are not finite at step {int(state.step)}, the loss is {loss}{kept}; try a "
        f"lower learning_rate{', in another folder' if kept else ''}"
    )


def _put(tree: Any, mesh: Mesh | None, *, divided: bool = False) -> Any:
    """Put arrays on every device of a mesh, or batches divided over its first axis."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = shard_images(mesh, batch=mesh.axis_names[0]) if divided else replicate(mesh)
    return jax.device_put(tree, sharding)

"""A whole training in a folder: checkpoints, a log, sample pictures, and the model at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .. import weights
from ..config import AutoencoderTinyConfig
from ..errors import TrainingError
from ..io.images import from_uint8, write_image
from ..model.functional import Params, init
from ..model.layers import COMPONENTS, Component, layers_of
from ..strategies.sharding import replicate, shard_images
from .crops import RECIPE_FILE, Crops, describe_pictures
from .evaluation import HeldOut
from .examples import Answers, batches
from .recipe import Recipe
from .records import Checkpoints, Event, Log, claim, locked
from .state import init_state
from .step import make_step
from .teachers import Teacher, as_pytree, digest_of, teacher_digest
from .validation import check_arguments, check_finite

# First crops that the teacher's response is measured with.
_EXAMPLES = 16


def train(
    folder: str | os.PathLike[str],
    pictures: Sequence[Path],
    *,
    student: Params,
    config: AutoencoderTinyConfig,
    recipe: Recipe,
    teacher: Teacher,
    held_out: Sequence[Path] = (),
    held_side: int = 256,
    answers: str | os.PathLike[str] | None = None,
    log_every: int = 50,
    measure_every: int = 500,
    resume: bool = False,
    mesh: Mesh | None = None,
    progress: Callable[[Event], object] = lambda event: None,
) -> Params:
    """Train one half of a model, and write it as `folder`/model_{encoder,decoder}.safetensors.

    Trainings of both halves may share a folder; `folder`/model is then the name of a whole model.
    What `student` has of the other half is written, too, where nothing is there yet. Below
    `folder`/{encoder,decoder} are recipe.json, log.jsonl, samples and checkpoints. A training that
    was stopped at any moment and is resumed gives the same bits as one that was not, on a CPU.

    Args:
        folder: Of the training.
        pictures: To take crops of.
        student: Params to start from, with the half that is trained; for an encoder's losses of
            images also a decoder, which stays as it is.
        config: Of the student.
        recipe: What to do.
        teacher: A model of the family, or a function of images that gives latents.
        held_out: Pictures to measure with.
        held_side: Their largest square is shrunk to this side.
        answers: Folder to keep the teacher's answers in, where `recipe.crops` limits the crops; one
            in `folder` by default. Trainings with equal crops and teacher share it.
        log_every: Steps between lines of the log.
        measure_every: Steps between measurements, each with samples and a checkpoint.
        resume: Go on with what is in the folder, if anything.
        mesh: Divide the batches over the devices of this mesh's first axis.
        progress: Told of each event of the log, and how far the teacher's answers are.

    Returns:
        {half: average of params}.

    Raises:
        TrainingError: The folder has a training and resume is not asked for, or another one, or
            another decoder than the one that makes an encoder's images; sizes do not fit; grain or
            orbax is not installed; a loss or param is not finite.
        CheckpointError: The other half in the folder cannot be read.
        PictureError: No picture can be used.
        ValueError: The recipe asks for what the teacher or the student does not have.
    """
    folder, half = Path(folder).absolute(), recipe.half
    if half not in student:
        raise TrainingError(f"student must have the {half} that is trained, got {sorted(student)}")
    pictures, held_out = ([Path(path) for path in paths] for paths in (pictures, held_out))
    teacher = as_pytree(teacher)
    if mesh is not None:
        teacher = jax.device_put(teacher, replicate(mesh))
    check_arguments(config, recipe, teacher, held_side, log_every, measure_every, mesh)
    taught_by = teacher_digest(teacher, side=recipe.side)
    place, decoder = _placement(mesh), None
    if half == "encoder" and recipe.makes_images:
        decoder = student.get("decoder")
    crops = Crops(
        pictures,
        side=recipe.side,
        seed=recipe.seed,
        shrink=recipe.shrink,
        hue=recipe.hue,
        saturation=recipe.saturation,
        candidates=recipe.candidates,
    )
    crops[0]  # that none can be used is an error now, not after the preparations
    examples = None
    if "response" in recipe.losses:
        examples = from_uint8(np.stack([crops[i] for i in range(_EXAMPLES)]))
    step = make_step(
        config, recipe, teacher, decoder=place(decoder, False), examples=place(examples, False)
    )
    measured = None
    if held_out:
        options: dict[str, Any] = {"teacher": teacher, "half": half, "config": config}
        measured = HeldOut(held_out, side=held_side, **options)
    facts = {
        "recipe": recipe.to_dict(),
        "config": config.to_dict(),
        "teacher": taught_by,
        "student": digest_of(student[half] if decoder is None else (student[half], decoder)),
        "pictures": describe_pictures(pictures),
        "devices": 1 if mesh is None else mesh.size,
    }
    source: Crops | Answers = crops
    if recipe.crops:
        where = Path(answers) if answers else folder / "answers"
        options = {"name": taught_by, "decoded": bool(recipe.imitate)}
        source = Answers(where, crops, recipe.crops, teacher, **options)
    elif answers:
        raise TrainingError("answers are kept of a number of crops: give recipe.crops, --crops")
    both, _ = _join(folder / "model", student, half, config)  # an error now, not at the end
    if decoder is not None and digest_of(both["decoder"]) != digest_of(decoder):
        raise TrainingError(
            f"{folder} has another decoder than the one that is to make this encoder's images; "
            f"name another folder"
        )
    with locked(folder / half, wait=False):
        claim(folder / half / RECIPE_FILE, facts, resume=resume)
        checkpoints = Checkpoints(folder / half / "checkpoints")
        try:
            state, start = checkpoints.restore(init_state(student[half], config, recipe))
            if isinstance(source, Answers):
                source.fill(lambda done, count: progress({"answers": done, "of": count}))
            log = Log(folder / half / "log.jsonl", start, progress)
            state, since, last = place(state, False), time.perf_counter(), start
            for number, batch in enumerate(batches(source, recipe, start), start + 1):
                state, losses = step(state, place(batch, True))
                ends = number == recipe.steps
                if number % log_every == 0 or ends:
                    # First the values: only then the steps, which run ahead of Python, are done.
                    values = {name: float(value) for name, value in losses.items()}
                    pace = (number - last) / (time.perf_counter() - since)
                    check_finite(values["total"], state, number)
                    log.add({"step": number, **values, "steps_per_second": round(pace, 2)})
                    since, last = time.perf_counter(), number
                if number % measure_every == 0 or ends:
                    check_finite(float(losses["total"]), state, number)
                    if measured:
                        figures, sheet = measured.measure(state.ema)
                        log.add({"step": number, **figures})
                        write_image(folder / half / "samples" / f"{number:07}.png", sheet)
                    # Last: what a checkpoint's steps have to show is there before the checkpoint.
                    checkpoints.save(number, state)
                    since, last = time.perf_counter(), number
        finally:
            checkpoints.close()
        result = {half: jax.tree.map(np.asarray, state.ema)}
        # A training of the other half may end at this moment.
        with locked(folder, wait=True):
            both, config = _join(folder / "model", student | result, half, config)
            weights.save(folder / "model", both, config, layout="original")
    return result


def new_student(half: Component, config: AutoencoderTinyConfig, *, seed: int) -> Params:
    """Draw the params of one half; a decoder's pictures start at a middle grey.

    Args:
        half: The half that is to be trained, so that no untrained one is kept beside it.
        config: Architecture.
        seed: Of the random numbers.
    """
    params = init(jax.random.key(seed), config=config)[half]
    if half == "decoder":
        last = params[layers_of(half, config)[-1].name]
        last["bias"] = last["bias"] + 0.5  # of [0, 1]
    return {half: params}


def _join(
    path: Path, params: Params, half: Component, config: AutoencoderTinyConfig
) -> tuple[Params, AutoencoderTinyConfig]:
    """Put the other half that is there beside a trained one; return params and config of both.

    Raises:
        TrainingError: The two are no model.
    """
    (other,) = set(COMPONENTS) - {half}
    there = path.with_name(f"{path.name}_{other}.safetensors")
    if not there.exists():
        return params, config
    found = weights.load(there)
    ours, theirs = config.to_dict(), found.config.to_dict()
    own = {name for name in ours if other in name}
    shared = [name for name in ours if other not in name and half not in name]
    if differing := [name for name in shared if ours[name] != theirs[name]]:
        raise TrainingError(
            f"{there} has another {', '.join(differing)} than this {half}; name another folder"
        )
    return {half: params[half], other: found.params[other]}, config.replace(
        **{name: getattr(found.config, name) for name in own}
    )


def _placement(mesh: Mesh | None) -> Callable[[Any, bool], Any]:
    if mesh is None:
        return lambda tree, _: jax.tree.map(jnp.asarray, tree)
    divided = shard_images(mesh, batch=mesh.axis_names[0])
    whole = replicate(mesh)
    return lambda tree, batch: jax.device_put(tree, divided if batch else whole)

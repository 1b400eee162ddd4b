"""The command `taesd-jax train`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError, TrainingError, UsageError
from ..io.listing import RECIPE_FILE
from ..model.layers import Component
from ..training import LOSSES, Recipe, RunOptions, list_images, new_student, train
from ..training.trainer import check_installed
from ..weights.sources import pair_file
from .options import load_vae
from .outputs import check_not_inputs, check_outputs
from .terminal import say


def run_train(args: argparse.Namespace) -> int:
    """Train a tiny encoder or decoder to match a larger model, or fine-tune one."""
    check_installed()
    fields: dict[str, Any] = {f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe)}
    if args.init and (args.widths or args.blocks):
        raise UsageError("--widths and --blocks are for new students; --init has its own")
    try:
        fields["losses"] = _parse_losses(args.losses)
        recipe = Recipe(**fields)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    held_out = list_images(args.held_out)
    excluded = {path.resolve() for path in held_out}
    images = [path for path in list_images(args.images) if path.resolve() not in excluded]
    if not images:
        raise MediaFileError("every image is held out; name others to train on")
    _check_model_path(args, [*images, *held_out])
    student, teacher = _load_models(args, recipe)
    options = RunOptions(
        held_out=held_out,
        eval_size=args.eval_size,
        eval_every=args.eval_every,
        log_every=args.log_every,
        teacher_cache=args.teacher_cache,
        resume=args.resume,
        mesh=_make_mesh(recipe.batch_size),
        progress=lambda event: None if args.quiet else _print_event(event, recipe.steps),
    )
    train(args.output, images, student=student, teacher=teacher, recipe=recipe, options=options)
    say(f"{args.output}/model_{recipe.component}.safetensors")
    return 0


def _check_model_path(args: argparse.Namespace, images: list[Path]) -> None:
    """Raise MediaFileError if the model would replace an input, or a file of no training."""
    path = pair_file(Path(args.output) / "model", args.component, ".safetensors")
    if (Path(args.output) / args.component / RECIPE_FILE).exists():
        check_not_inputs(args, [path], images)
    else:
        check_outputs(args, [path], images)


def _load_models(
    args: argparse.Namespace, recipe: Recipe
) -> tuple[AutoencoderTiny, AutoencoderTiny]:
    """Return the student and the teacher."""
    component = recipe.component
    init = load_vae(args.init) if args.init else None
    teacher = load_vae(args.teacher) if args.teacher else init or load_vae("taesd")
    teacher.check_loaded("encoder")
    if init is None:
        config = _student_config(teacher.config, component, args.widths, args.blocks)
        return new_student(component, config, seed=recipe.seed), teacher
    init.check_loaded(component)
    if init.config.shares_latents(teacher.config):
        return init, teacher
    # Only the trained component learns the new latents.
    config = init.config.replace(
        raw_latent_scale=teacher.config.raw_latent_scale,
        raw_latent_shift=teacher.config.raw_latent_shift,
        name_or_path="",
    )
    return AutoencoderTiny({component: init.params[component]}, config), teacher


def _make_mesh(batch_size: int) -> Mesh | None:
    """Return a mesh of as many devices as divide a batch; None for a single device."""
    count = jax.device_count()
    if count == 1:
        return None
    used = math.gcd(batch_size, count)
    print(f"{used} of {count} devices share each batch", file=sys.stderr)
    return jax.make_mesh((used,), ("batch",), devices=jax.devices()[:used])


def _print_event(event: dict[str, Any], steps: int) -> None:
    if "cached" in event:
        line = f"teacher's results: {event['cached']} of {event['of']}"
    else:
        values = ", ".join(f"{name} {x:.4g}" for name, x in event.items() if name != "step")
        line = f"step {event['step']} of {steps}: {values}"
    print(line, file=sys.stderr, flush=True)


def _parse_losses(words: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for word in words:
        name, equals, weight = word.partition("=")
        if name in weights:
            raise TrainingError(f"losses are given once each, got {name} again")
        default = LOSSES[name].weight if name in LOSSES else 1.0  # the recipe refuses other names
        try:
            weights[name] = float(weight) if equals else default
        except ValueError as error:
            raise TrainingError(f"losses are given as NAME or NAME=WEIGHT, got {word!r}") from error
    return weights


def _student_config(
    teacher: AutoencoderTinyConfig,
    component: Component,
    widths: list[int] | None,
    blocks: list[int] | None,
) -> AutoencoderTinyConfig:
    """Return the teacher's config with other widths and numbers of blocks of one component."""
    changes: dict[str, Any] = {}
    for values, name in (
        (widths, f"{component}_block_out_channels"),
        (blocks, f"num_{component}_blocks"),
    ):
        if values:  # latent first
            changes[name] = tuple(values if component == "decoder" else values[::-1])
    return teacher.replace(**changes, name_or_path="")

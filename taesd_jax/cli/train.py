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
from ..model.layers import COMPONENTS, Component
from ..training import LOSSES, Recipe, RunOptions, list_images, new_student, train
from ..training.recipe import DTYPES, OPTIMIZERS
from ..training.trainer import check_installed
from ..weights.sources import pair_file
from .options import MODEL_HELP, load_vae, positive_integer, say
from .outputs import add_overwrite, check_not_inputs, check_outputs, file_name

_DEFAULT = "(default: %(default)s)"
# Groups of arguments, and the fields of a recipe that each has.
_GROUPS = {
    "student and teacher": ("frozen_stages",),
    "losses": ("teacher_blend", "sharpen", "replay_size"),
    "crops": ("crop_size", "num_crops", "max_downscale", "hue", "saturation", "crop_candidates"),
    "steps": ("steps", "batch_size", "learning_rate", "warmup", "ema_decay", "seed"),
    "evaluation and log": (),
}


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax train`."""
    parser.usage = "taesd-jax train {encoder,decoder} IMAGES ... -o FOLDER [OPTION ...]"
    add = parser.add_argument
    add("component", choices=COMPONENTS, help="what to train")
    add("images", nargs="+", help="image files, folders or glob patterns")
    text = "folder; both components of a model may share it"
    add("-o", "--output", type=file_name, required=True, help=text)
    text = "resume the training in the folder; with `auto`, start one if there is none"
    add("--resume", nargs="?", choices=("auto",), const=True, default=False, help=text)
    add_overwrite(parser)
    groups = {title: parser.add_argument_group(title) for title in _GROUPS}
    _add_models(groups["student and teacher"])
    _add_losses(groups["losses"])
    _add_evaluation(groups["evaluation and log"])
    add = groups["steps"].add_argument
    add("--optimizer", choices=tuple(OPTIMIZERS), default="muon", help=_DEFAULT)
    add("--dtype", choices=DTYPES, default="float32", help=f"dtype of the computation {_DEFAULT}")
    add("--remat", action="store_true", help="recompute blocks in the backward pass: less memory")
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for title, names in _GROUPS.items():
        for field in map(fields.__getitem__, names):
            text = field.metadata["help"] + ("" if field.default is None else f" {_DEFAULT}")
            groups[title].add_argument(
                f"--{field.name.replace('_', '-')}",
                type=field.metadata["kind"],
                default=field.default,
                metavar="N",
                help=text,
            )
    text = "where the teacher's results for --num-crops are kept (default: inside -o)"
    groups["crops"].add_argument("--teacher-cache", metavar="FOLDER", help=text)


def _add_models(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--teacher", help=f"{MODEL_HELP} (default: what --init names, else taesd)")
    add("--init", help="model to start from; the component that is not trained stays as it is")
    text = "of a new student's stages, latent first"
    add("--widths", type=positive_integer, nargs="+", metavar="N", help=f"channels {text}")
    add("--blocks", type=positive_integer, nargs="+", metavar="N", help=f"blocks {text}")


def _add_losses(group: argparse._ArgumentGroup) -> None:
    listed = "; ".join(f"{name} ({row.weight:g}): {row.summary}" for name, row in LOSSES.items())
    text = f"weighted sum to minimise (default: mse). Each with its default weight: {listed}"
    group.add_argument("--losses", nargs="+", metavar="NAME[=WEIGHT]", default=["mse"], help=text)


def _add_evaluation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--held-out", nargs="+", default=[], help="images to evaluate with, not trained on")
    text = f"side in pixels that their largest square is resized to {_DEFAULT}"
    add("--eval-size", type=positive_integer, default=256, metavar="N", help=text)
    text = f"steps between evaluations and checkpoints {_DEFAULT}"
    add("--eval-every", type=positive_integer, default=500, metavar="N", help=text)
    text = f"steps between lines of the log {_DEFAULT}"
    add("--log-every", type=positive_integer, default=50, metavar="N", help=text)


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
        progress=lambda event: _print_event(event, recipe.steps),
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

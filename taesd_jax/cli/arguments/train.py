"""Arguments of `taesd-jax train`."""

from __future__ import annotations

import argparse
import dataclasses

from ...model.layers import COMPONENTS
from ...training.recipe import DTYPES, OPTIMIZERS, Recipe
from ...training.registry import LOSSES
from .common import MODEL_HELP, file_name, positive_integer

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
    text = "replace the model in the folder, if it is not of a training there"
    add("--overwrite", action="store_true", help=text)
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

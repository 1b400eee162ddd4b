"""`taesd-jax train`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from typing import Any

import jax

from ..config import AutoencoderTinyConfig
from ..errors import PictureError, TrainingError
from ..model.layers import Component
from ..training.crops import list_pictures
from ..training.recipe import DTYPES, OPTIMIZERS, Recipe
from .options import load_vae

_HELP = {
    "imitate": "0: the target is the picture; 1: what the teacher decodes; between: a mean",
    "sharpen": "strength of an unsharp mask on the target, against blur; 0 for none",
    "frozen": "stages nearest the latent that keep their params",
    "steps": "steps in all",
    "batch": "crops a step",
    "side": "side of a crop in pixels",
    "shrink": "a crop is made of up to this many times its side",
    "hue": "most that a crop's colours are turned, 1 for the whole colour circle",
    "saturation": "most that a crop's colours are made stronger or weaker, 1 for double or half",
    "candidates": "of so many crops of a picture the busiest is taken",
    "crops": "ask the teacher once for each of this many crops; 0: new crops at each step",
    "rate": "highest learning rate; 0 for the optimizer's own",
    "warmup": "steps until the highest rate, a quarter of all at most",
    "beta2": "decay of the second moment; 0 for the optimizer's own",
    "ema": "decay of the average of params that is measured and kept",
    "buffer": "older fakes that the discriminator may be shown",
    "seed": "of everything random",
}


def add_arguments(parser: argparse.ArgumentParser, model_help: str) -> None:
    """Add what `taesd-jax train` takes."""
    add = parser.add_argument
    add("half", choices=("encoder", "decoder"), help="what to train")
    add("pictures", nargs="+", help="folders, pictures or glob patterns")
    add("-o", "--output", required=True, help="folder; both halves of a model may share it")
    add("--teacher", help=f"{model_help} (default: what --init names, else taesd)")
    add("--init", help="model to start from; its encoder stays as it is when its decoder is tuned")
    add(
        "--widths", type=int, nargs="+", metavar="N", help="of a new student's stages, latent first"
    )
    add(
        "--blocks", type=int, nargs="+", metavar="N", help="in a new student's stages, latent first"
    )
    add("--held-out", nargs="+", default=[], help="pictures to measure with, never trained on")
    add(
        "--held-side",
        type=int,
        default=256,
        help="side in pixels that their largest square is shrunk to (default: %(default)s)",
    )
    add("--answers", metavar="FOLDER", help="where the teacher's answers to --crops are kept")
    add("--resume", action="store_true", help="go on with the training in the folder")
    add(
        "--losses",
        nargs="+",
        metavar="NAME=WEIGHT",
        default=["mse=1"],
        help="mse, mae, amplitude, mse_eighth, dssim, detail, texture, patches, encoded_patches, "
        "features, response; of decoders also latents, adversarial (default: mse=1)",
    )
    add("--optimizer", choices=tuple(OPTIMIZERS), default="muon", help="default: %(default)s")
    add("--dtype", choices=DTYPES, default="float32", help="of the computation")
    add("--remat", action="store_true", help="recompute blocks in the backward pass: less memory")
    text = "steps between lines of the log (default: %(default)s)"
    add("--log-every", type=int, default=50, metavar="N", help=text)
    text = "steps between measurements and checkpoints (default: %(default)s)"
    add("--measure-every", type=int, default=500, metavar="N", help=text)
    fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
    for name, text in _HELP.items():
        default = fields[name]
        text = f"{text} (default: {default})"
        add(f"--{name}", type=type(default), default=default, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Train one half of a model."""
    try:
        from ..training.trainer import new_student, train
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"training needs {error.name}: pip install 'taesd-jax[train]'"
        ) from error

    names = [field.name for field in dataclasses.fields(Recipe)]
    options: dict[str, Any] = {name: getattr(args, name) for name in names}
    options["losses"] = _losses(args.losses)
    recipe = Recipe(**options)
    held_out = list_pictures(args.held_out)
    away = {path.resolve() for path in held_out}
    pictures = [path for path in list_pictures(args.pictures) if path.resolve() not in away]
    if not pictures:
        raise PictureError("every picture is held out; name others to train on")
    init = load_vae(args.init) if args.init else None
    teacher = load_vae(args.teacher) if args.teacher else init or load_vae("taesd")
    teacher.require("encoder")
    if init:
        if args.widths or args.blocks:
            raise TrainingError("--widths and --blocks are of new students, --init has its own")
        init.require(recipe.half)
        params, config = init.params, init.config
        if not config.shares_latents(teacher.config):
            # The other half stays with the latents that it knows.
            params = {recipe.half: params[recipe.half]}
            scale, shift = teacher.config.raw_latent_scale, teacher.config.raw_latent_shift
            config = config.replace(raw_latent_scale=scale, raw_latent_shift=shift, name_or_path="")
    else:
        config = _student_config(teacher.config, recipe.half, args.widths, args.blocks)
        params = new_student(recipe.half, config, seed=recipe.seed)
    mesh, shared = None, math.gcd(recipe.batch, jax.device_count())
    if jax.device_count() > 1:
        print(f"{shared} of {jax.device_count()} devices share each batch", file=sys.stderr)
        mesh = jax.make_mesh((shared,), ("batch",), devices=jax.devices()[:shared])
    train(
        args.output,
        pictures,
        student=params,
        config=config,
        recipe=recipe,
        teacher=teacher,
        held_out=held_out,
        held_side=args.held_side,
        answers=args.answers,
        log_every=args.log_every,
        measure_every=args.measure_every,
        resume=args.resume,
        mesh=mesh,
        progress=_Progress(recipe.steps),
    )
    print(f"{args.output}/model_{recipe.half}.safetensors")
    return 0


class _Progress:
    """Prints events, a line each."""

    def __init__(self, steps: int):
        self._steps = steps

    def __call__(self, event: dict[str, Any]) -> None:
        values = dict(event)
        if "answers" in values:
            line = f"teacher's answers: {values['answers']} of {values['of']}"
        else:
            line = f"step {values.pop('step')} of {self._steps}: " + ", ".join(
                f"{name} {value:.4g}" for name, value in values.items()
            )
        print(line, file=sys.stderr, flush=True)


def _losses(words: list[str]) -> dict[str, float]:
    found = {}
    for word in words:
        name, _, weight = word.partition("=")
        if name in found:
            raise TrainingError(f"losses are given once each, got {name} again")
        try:
            found[name] = float(weight)
        except ValueError as error:
            raise TrainingError(f"losses are given as NAME=WEIGHT, got {word!r}") from error
    return found


def _student_config(
    teacher: AutoencoderTinyConfig,
    half: Component,
    widths: list[int] | None,
    blocks: list[int] | None,
) -> AutoencoderTinyConfig:
    """Return the teacher's config with other widths and numbers of blocks of one half."""
    given: dict[str, Any] = {}
    for values, name in ((widths, f"{half}_block_out_channels"), (blocks, f"num_{half}_blocks")):
        if values:
            given[name] = tuple(values if half == "decoder" else values[::-1])  # latent first
    return teacher.replace(**given, name_or_path="")

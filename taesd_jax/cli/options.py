"""Arguments, models, inputs, outputs and progress that several subcommands share."""

from __future__ import annotations

import argparse
import contextlib
import glob
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import taesd_jax

from .. import weights
from ..autoencoder import AutoencoderTiny
from ..config import VARIANTS
from ..errors import CheckpointError, MediaFileError, describe_error, escape_controls, one_line
from ..io.files import check_regular
from ..io.images import read_image
from ..io.listing import drop_repeated, find_images, is_list
from ..model.layers import Component
from ..weights.sources import find_local

MODEL_HELP = (
    "a safetensors file; PATH for PATH_encoder.safetensors and PATH_decoder.safetensors; a folder; "
    "a hub id; one of " + ", ".join(VARIANTS) + "; or small, which comes with this package"
)
IMAGES_HELP = "image files, folders or glob patterns"
LONGEST_HELP = "longest side in pixels; larger images are resized to it (default: %(default)s)"


def positive_integer(text: str) -> int:
    """Parse a positive integer of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of 1 or more, got {text!r}")
    return int(text)


def convert_package() -> ModuleType:
    """Return `taesd_jax.convert`.

    Raises:
        CheckpointError: PyTorch, or this package itself, is not installed.
    """
    try:
        return taesd_jax.convert
    except ModuleNotFoundError as error:
        raise CheckpointError(str(error)) from error


def load_checkpoint(source: str) -> weights.Checkpoint:
    """Load a checkpoint as `taesd_jax.load` does, or .pth files where torch is installed."""
    files = find_local(source)
    is_torch = files is not None and files.are_pickles
    return convert_package().load_pth(source) if is_torch else weights.load(source)


def load_vae(source: str, *, thumbnails: str | None = None, **options: Any) -> AutoencoderTiny:
    """Load a model to run; `options` are those of `AutoencoderTiny`."""
    params, config, _ = load_checkpoint(source)
    params = weights.add_thumbnails(params, thumbnails)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config, **options)


@contextlib.contextmanager
def model_on_device(args: argparse.Namespace, *components: Component) -> Iterator[AutoencoderTiny]:
    """Load `args.model` with the components needed, and run on the device `args.device`.

    Raises:
        ValueError: There is no such device, or a component is not in the checkpoint.
    """
    try:
        device = jax.devices(args.device)[0] if args.device else None
    except RuntimeError as error:
        available = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise ValueError(f"no device {args.device!r}; available: {available}") from error
    with jax.default_device(device):
        vae = load_vae(args.model, thumbnails=getattr(args, "thumbnails", None), dtype=args.dtype)
        for component in components:
            vae.check_loaded(component)
        yield vae


def expand_images(sources: list[str]) -> list[Path]:
    """List the files of image files, folders and patterns, each once.

    Raises:
        MediaFileError: A folder or pattern has no images.
    """
    return drop_repeated(itertools.chain.from_iterable(map(find_images, sources)))


def expand(sources: list[str]) -> list[Path]:
    """List the files of paths and patterns, each once.

    Raises:
        MediaFileError: A pattern matches nothing.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        found = [path]
        if is_list(source) and not path.is_dir():
            found = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
        if not found:
            raise MediaFileError(f"no file matches {source!r}")
        files += found
    return drop_repeated(files)


def read_resized(paths: list[Path], longest: int, shortest: int) -> Iterator[np.ndarray]:
    """Yield images (h, w, 3), resized to a longest side of at most `longest`.

    An image that cannot be read, or has a side below `shortest`, is reported and removed from the
    list.
    """
    for path in list(paths):
        try:
            image = read_image(path)
            if min(image.shape[:2]) < shortest:
                raise MediaFileError(f"{path}: smaller than {shortest} pixels")
        except MediaFileError as error:
            print(f"taesd-jax: warning: skipped {one_line(error)}", file=sys.stderr)
            paths.remove(path)
            continue
        h, w, _ = image.shape
        if max(h, w) > longest:
            size = [max(round(side * longest / max(h, w)), shortest) for side in (h, w)]
            image = np.asarray(jax.image.resize(image, (*size, 3), "lanczos3")).clip(-1, 1)
        yield image


def say(line: str) -> None:
    """Print a line at once, harmless whatever names of files are in it."""
    print(escape_controls(line), flush=True)


def for_each(
    inputs: list[Path], results: list[Path], work: Callable[[Path, Path], str], *, debug: bool
) -> int:
    """Call `work` for each file and print its result; report files that fail and continue.

    Returns:
        The exit status: 1 if a file failed.
    """
    failed = 0
    for i, (source, result) in enumerate(zip(inputs, results, strict=True), 1):
        start = time.perf_counter()
        count = f"[{i}/{len(inputs)}] " if len(inputs) > 1 else ""
        try:
            check_regular(source)
            line = work(source, result)
        except BrokenPipeError:
            raise
        except Exception as error:
            if debug:
                raise
            failed += 1
            message = describe_error(error)
            if f"{source}:" not in message and f"'{source}'" not in message:
                message = f"{source}: {message}"
            print(f"taesd-jax: error: {count}{one_line(message)}", file=sys.stderr)
        else:
            say(f"{count}{line}  ({time.perf_counter() - start:.1f} s)")
    return 1 if failed else 0

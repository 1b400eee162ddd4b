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
from ..errors import CheckpointError, MediaFileError, describe_error, one_line, warn
from ..io.files import check_regular, command_of
from ..io.images import read_image
from ..io.latent_content import READABLE
from ..io.listing import drop_repeated, find_images, is_list, visible_files
from ..model.layers import Component
from ..video.checkpoints import CONFIG as VIDEO_CONFIG
from ..video.config import VIDEO_VARIANTS
from ..video.tensors import difference
from ..weights.files import read_header
from ..weights.sources import NAMES, find_local
from .terminal import Show, print_report, say, status_line

# Suffixes that latents share with models. Images are taken for images.
_OTHERS = (".safetensors", ".pt")
# Makes a result of a file; returns a line of the report, and what `--json` reports.
Work = Callable[[Path, Path, Show], tuple[str, dict[str, Any]]]


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
    if video_variants(source) is not None:
        raise CheckpointError(f"{source}: a video model; decode-video and encode-video run it")
    files = find_local(source)
    is_torch = files is not None and files.are_pickles
    return convert_package().load_pth(source) if is_torch else weights.load(source)


def video_variants(source: str) -> list[str] | None:
    """Return the video variants that a file may hold, [] for another video model, or None."""
    path = Path(source).expanduser()
    if source in NAMES or path.suffix != ".safetensors" or not path.is_file():
        return None
    header = read_header(path)
    names = [name for name, row in VIDEO_VARIANTS.items() if not difference(header.shapes, row)]
    return names if names or VIDEO_CONFIG in header.metadata else None


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
        with status_line(args) as show:
            show(f"loading {args.model}")
            thumbnails = getattr(args, "thumbnails", None)
            vae = load_vae(args.model, thumbnails=thumbnails, dtype=args.dtype)
        for component in components:
            vae.check_loaded(component)
        yield vae


def expand_images(sources: list[str]) -> list[Path]:
    """List the files of image files, folders and patterns, each once.

    Raises:
        MediaFileError: A folder or pattern has no images.
    """
    return drop_repeated(itertools.chain.from_iterable(map(find_images, sources)))


def expand_latents(sources: list[str]) -> list[Path]:
    """List the latent files of paths, folders and patterns, each once.

    Raises:
        MediaFileError: A folder or pattern has none.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        found = [path]
        if path.is_dir():
            files_inside = visible_files(path)
            found = [file for file in files_inside if _may_be_latent(file)]
            _warn_of_others(source, {*files_inside} - {*found})
        elif is_list(source):
            found = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
        if not found:
            raise MediaFileError(f"no latents in {source!r}; name the files themselves")
        files += found
    return drop_repeated(files)


def _may_be_latent(path: Path) -> bool:
    """Return whether a file in a folder is taken for a latent: images and models may be there."""
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        return False
    return suffix in (".npy", ".npz", ".latent") or command_of(path) == "encode"


def _warn_of_others(source: str, files: set[Path]) -> None:
    """Warn of files that another program, or this library without the command, may have written."""
    if names := sorted(str(file) for file in files if file.suffix.lower() in _OTHERS):
        warn(
            f"{source}: left out {len(names)} files that may be latents or models, such as "
            f"{names[0]}; name the latents among them themselves"
        )


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


def for_each(
    args: argparse.Namespace,
    inputs: list[Path],
    results: list[Path],
    work: Work,
    *,
    prefix: str = "",
) -> int:
    """Call `work` for each file; report its line and fields, or why it failed, and continue.

    Args:
        args: With `debug` and `json`.
        inputs: The files.
        results: What `work` writes for each.
        work: Called with a file, its result and what shows progress.
        prefix: Left out of names in the report.

    Returns:
        The exit status: 1 if a file failed.
    """
    files: list[dict[str, Any]] = []
    for i, (source, result) in enumerate(zip(inputs, results, strict=True), 1):
        start = time.perf_counter()
        count = f"[{i}/{len(inputs)}] " if len(inputs) > 1 else ""
        entry: dict[str, Any] = {"input": str(source).removeprefix(prefix)}
        files.append(entry)
        try:
            check_regular(source)
            with status_line(args) as show:
                line, fields = work(source, result, show)
        except BrokenPipeError:
            raise
        except Exception as error:
            if args.debug:
                raise
            message = describe_error(error)
            if f"{source}:" not in message and f"'{source}'" not in message:
                message = f"{source}: {message}"
            entry["error"] = one_line(message.replace(prefix, ""))
            print(f"taesd-jax: error: {count}{entry['error']}", file=sys.stderr)
        else:
            seconds = time.perf_counter() - start
            entry |= {**fields, "seconds": round(seconds, 3)}
            if not args.json:
                say(f"{count}{line.replace(prefix, '')}  ({seconds:.1f} s)")
    print_report(args, {"files": files}, ())
    return int(any("error" in entry for entry in files))

"""What several subcommands share: models, inputs, outputs and progress."""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
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
from ..errors import CheckpointError, PictureError, one_line
from ..io.files import check_regular
from ..io.images import read_image
from ..weights.sources import PICKLES, pickles


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
    """Load what `taesd_jax.load` takes, and PyTorch's .pth files where torch is installed."""
    is_torch = False
    # Names that no file can have are for `weights.load` to refuse.
    with contextlib.suppress(RuntimeError, OSError):
        path = Path(source).expanduser()
        is_torch = (path.suffix.lower() in PICKLES and path.is_file()) or bool(pickles(path))
    return convert_package().load_pth(source) if is_torch else weights.load(source)


def load_model(args: argparse.Namespace) -> AutoencoderTiny:
    """Load `args.model` to compute in `args.dtype`."""
    return load_vae(args.model, thumbnails=getattr(args, "thumbnails", None), dtype=args.dtype)


def load_vae(source: str, *, thumbnails: str | None = None, **options: Any) -> AutoencoderTiny:
    """Load a model to run: `options` are `AutoencoderTiny`'s."""
    params, config, _ = load_checkpoint(source)
    params = weights.add_thumbnails(params, thumbnails)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config, **options)


@contextlib.contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Run on the first device of a platform: cpu, gpu or tpu."""
    if name is None:
        yield
        return
    try:
        device = jax.devices(name)[0]
    except RuntimeError as error:
        here = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise ValueError(f"no device {name!r} here; there is {here}") from error
    with jax.default_device(device):
        yield


def expand(patterns: list[str], *, skip: tuple[str, ...] = ()) -> list[Path]:
    """Return the files that paths and glob patterns name, each once.

    Args:
        patterns: Paths and patterns.
        skip: Endings that a pattern does not match, such as those of our own results.

    Raises:
        PictureError: A pattern matches nothing.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        path = Path(pattern)
        matches = [path]
        if glob.has_magic(pattern) and not path.exists():
            matches = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]
            matches = [p for p in matches if not p.name.endswith(skip)]
        if not matches:
            raise PictureError(f"no file matches {pattern!r}")
        for match in matches:
            found.setdefault(real(match), match)
    return list(found.values())


def read_shrunk(paths: list[Path], longest: int, least: int) -> Iterator[np.ndarray]:
    """Yield pictures (h, w, 3), their longer side shrunk to `longest`.

    One that cannot be read, or has a side below `least`, is reported and leaves the list.
    """
    for path in list(paths):
        try:
            image = read_image(path)
            if min(image.shape[:2]) < least:
                raise PictureError(f"{path}: smaller than {least} pixels")
        except PictureError as error:
            print(f"taesd-jax: warning: skipped {one_line(error)}", file=sys.stderr)
            paths.remove(path)
            continue
        h, w, _ = image.shape
        if max(h, w) > longest:
            size = [max(round(side * longest / max(h, w)), least) for side in (h, w)]
            image = np.asarray(jax.image.resize(image, (*size, 3), "lanczos3")).clip(-1, 1)
        yield image


def real(path: Path) -> str:
    """Return the path through all links; unlike `Path.resolve` of a loop of links as well."""
    return os.path.realpath(path)


def outputs(inputs: list[Path], output: str | None, suffix: str) -> list[Path]:
    """Return where each input's result goes.

    Args:
        inputs: The files read.
        output: None for beside each input; a folder (one that exists, ends with a slash, or has to
            hold several results); or a file.
        suffix: Put in place of the input's, such as ".decoded.png".

    Raises:
        PictureError: Two results would have one name, or a result would replace an input.
    """
    names = [f"{path.stem.removesuffix('.latent')}{suffix}" for path in inputs]
    if output is None:
        results = [path.with_name(name) for path, name in zip(inputs, names, strict=True)]
    elif len(inputs) > 1 or Path(output).is_dir() or output.endswith(("/", os.sep)):
        if Path(output).is_file():
            raise PictureError(f"{len(inputs)} results need a folder, but {output} is a file")
        results = [Path(output) / name for name in names]
    else:
        results = [Path(output)]
    seen: dict[str, Path] = {}
    sources = {real(path) for path in inputs}
    for source, result in zip(inputs, results, strict=True):
        if real(result) in sources:
            raise PictureError(f"{result} is an input; name another output with -o")
        if other := seen.get(real(result)):
            raise PictureError(f"{other} and {source} would both be written to {result}")
        seen[real(result)] = source
    return results


def for_each(
    inputs: list[Path], results: list[Path], work: Callable[[Path, Path], str], *, debug: bool
) -> int:
    """Call `work` for each file, print what it returns, and go on past files that fail.

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
            expected = isinstance(error, (ValueError, TypeError, OSError))
            said = str(error) if expected else f"{type(error).__name__}: {error}"
            named = said if f"{source}:" in said or f"'{source}'" in said else f"{source}: {said}"
            print(f"taesd-jax: error: {count}{one_line(named)}", file=sys.stderr)
        else:
            print(f"{count}{line}  ({time.perf_counter() - start:.1f} s)", flush=True)
    return 1 if failed else 0

"""What a command may write: never over an input, nor over a file that is not its own."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import MediaFileError, UsageError
from ..io.arrays import partial_path
from ..io.files import command_of, resolve_target, signature, write_files
from ..io.listing import is_list
from ..model.layers import COMPONENTS
from ..weights.files import CONFIG_FILE
from ..weights.sources import PICKLES, pair_file

# Options that name files to write, and options that name models.
_OUTPUTS = ("output", "target", "json", "plot")
_MODELS = ("model", "models", "init", "teacher")


def output_paths(
    inputs: list[Path],
    sources: list[str],
    output: str | None,
    *,
    model: str,
    suffix: str,
    check_suffix: Callable[[Path], object],
) -> list[Path]:
    """Return the path of each input's result, named after the input and the model.

    Args:
        inputs: The input files.
        sources: Files, folders and patterns that they come from; a folder's subfolders are kept.
        output: None to write next to a single input, or for several into a folder named after the
            model; a folder, which exists or ends with a slash; a folder to create, without a
            suffix, for several results; or a file.
        model: The model's name or path.
        suffix: Replaces the input's suffix, such as ".decoded.png".
        check_suffix: Raises MediaFileError for a file of another format.

    Raises:
        MediaFileError: Two results would have the same name.
        UsageError: `output` names neither a folder nor a file that can be written.
    """
    several = len(inputs) > 1 or any(map(is_list, sources))
    name = Path(os.path.abspath(model))
    is_file = name.suffix.lower() in (".safetensors", *PICKLES)
    model = f".{name.stem if is_file else name.name}"
    stems = [path.stem.removesuffix(".latent").removesuffix(model) for path in inputs]
    names = [f"{stem}{model}{suffix}" for stem in stems]
    if output is None and several:
        output = f"{Path(model + suffix).stem.removeprefix('.')}{os.sep}"
    if output is None:
        results = [path.with_name(name) for path, name in zip(inputs, names, strict=True)]
    elif _is_folder(output, several):
        folders = [Path(source) for source in sources if Path(source).is_dir()]
        results = [
            Path(output, _below(path, folders), name)
            for path, name in zip(inputs, names, strict=True)
        ]
    else:
        results = [_single_file(output, len(inputs), check_suffix)]
    _check_different(inputs, results)
    return results


def _single_file(output: str, count: int, check_suffix: Callable[[Path], object]) -> Path:
    """Return the file that `output` names, for one input; raise UsageError otherwise."""
    folder = f"{Path(output).with_suffix('')}/"
    if Path(folder).is_file():
        folder = "results/"
    if count > 1:
        raise UsageError(f"-o {output} is one file for {count} inputs; name a folder, -o {folder}")
    try:
        check_suffix(Path(output))
    except MediaFileError as error:
        raise UsageError(f"-o {error}; a folder ends with a slash, -o {folder}") from error
    return Path(output)


def _check_different(inputs: list[Path], results: list[Path]) -> None:
    sources: dict[str, Path] = {}
    for source, result in zip(inputs, results, strict=True):
        if other := sources.get(target := os.path.realpath(result)):
            raise MediaFileError(
                f"{other} and {source} would both be written to {result}; run the command for "
                f"each, with -o and a name of its own"
            )
        sources[target] = source


def _below(path: Path, folders: list[Path]) -> Path:
    """Return the subfolder of a file in the folder that it was found in."""
    full, *roots = (Path(os.path.abspath(each)) for each in (path, *folders))
    root = next((root for root in roots if full.is_relative_to(root)), full.parent)
    return full.parent.relative_to(root)


def check_outputs(
    args: argparse.Namespace, paths: Iterable[str | Path | None], inputs: Iterable[Path] = ()
) -> None:
    """Raise MediaFileError unless a command may write these files.

    An existing file may be replaced if the same subcommand wrote it, or with `--overwrite`.

    Args:
        args: All arguments. No file that they name is written over.
        paths: Files to write; None is left out.
        inputs: Further files that are read.
    """
    paths = [Path(path) for path in paths if path is not None]
    check_not_inputs(args, paths, inputs)
    for path in paths:
        target = resolve_target(path)
        if target.exists() and not args.overwrite and command_of(target) != args.command:
            raise MediaFileError(
                f"{path} exists and does not say that taesd-jax {args.command} wrote it; name "
                f"another file, or replace it with --overwrite"
            )


def check_not_inputs(
    args: argparse.Namespace, paths: Iterable[Path], inputs: Iterable[Path] = ()
) -> None:
    """Raise MediaFileError for a path, links followed, that the arguments name as an input."""
    files = {os.path.realpath(p) for p in (*inputs, *_named_files(args)) if p.exists()}
    for path in paths:
        target = Path(os.path.realpath(path))
        if not files.isdisjoint({str(target), str(partial_path(target))}):
            raise MediaFileError(f"{path} is an input; name another file to write")


def write_json(args: argparse.Namespace, path: str, report: dict[str, Any]) -> None:
    """Write a report that the same subcommand may replace."""
    report = {"software": signature(args.command)} | report
    write_files({Path(path): (json.dumps(report, indent=2) + "\n").encode()})


def _is_folder(output: str, several: bool) -> bool:
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir():
        if path.is_file():
            raise MediaFileError(f"{path} is a file; name another folder")
        return True
    return several and not path.suffix and not path.exists()


def _named_files(args: argparse.Namespace) -> Iterable[Path]:
    """Yield the files that the arguments name as inputs, models among them."""
    for option, value in vars(args).items():
        if option in _OUTPUTS:
            continue
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and word:
                yield Path(word)
                if option in _MODELS:
                    yield from _model_files(Path(os.path.expanduser(word)))


def _model_files(path: Path) -> Iterable[Path]:
    """Yield the files that may belong to a model, of those that `weights.load` takes."""
    if path.name:
        for suffix in (".safetensors", ".pth"):
            yield from (pair_file(path, component, suffix) for component in COMPONENTS)
    if path.is_file():
        yield path.with_name(CONFIG_FILE)
    elif path.is_dir():
        suffixes = (".safetensors", ".json", *PICKLES)
        yield from (file for file in path.iterdir() if file.suffix.lower() in suffixes)

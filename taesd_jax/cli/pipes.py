"""Standard input and standard output in the place of one file each."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import MediaFileError, UsageError
from ..io.files import naming
from ..io.listing import is_list

PIPE = "-"
_STDIN, _STDOUT = 0, 1
# First bytes of the formats that are told by their suffix elsewhere.
_HEADS = {b"\x93NUMPY": ".npy", b"\x89PNG": ".png", b"PK": ".npz"}


class Piped(NamedTuple):
    """What `-` stands for.

    Attributes:
        inputs: The inputs, `-` replaced by a file.
        output: The output, replaced likewise.
        prefix: What names of such files begin with, to be left out of messages.
    """

    inputs: list[str]
    output: str | None
    prefix: str = ""


@contextlib.contextmanager
def piped(args: argparse.Namespace, inputs: list[str], suffix: str) -> Iterator[Piped]:
    """Replace `-` by a file of what standard input holds, or one that goes to standard output.

    Lines go to standard error while standard output is taken.

    Args:
        args: With `output`.
        inputs: Names of the inputs.
        suffix: Suffix of what is written to standard output.

    Raises:
        UsageError: There is more than one input or none, or standard output is a terminal.
        MediaFileError: Standard input is empty.
    """
    if PIPE not in (*inputs, args.output):
        yield Piped(inputs, args.output)
        return
    _check(args, inputs)
    with tempfile.TemporaryDirectory(prefix="taesd-jax-") as folder:
        prefix = os.path.join(folder, "")
        if inputs == [PIPE]:
            inputs = [_read(Path(folder))]
        if args.output != PIPE:
            yield Piped(inputs, args.output, prefix)
            return
        result = Path(folder) / f"stdout{suffix}"
        with contextlib.redirect_stdout(sys.stdout if args.quiet else sys.stderr):
            yield Piped(inputs, str(result), prefix)
        if result.exists():
            with naming(Path("standard output")), open(_STDOUT, "wb", closefd=False) as target:
                target.write(result.read_bytes())


def _check(args: argparse.Namespace, inputs: list[str]) -> None:
    if len(inputs) > 1 or any(map(is_list, inputs)):
        raise UsageError(
            f"- is standard input or output, for one file; got {', '.join(inputs)}: name a folder "
            f"for the results"
        )
    if args.output is None:
        raise UsageError("name the output of standard input: -o FILE, or -o - for standard output")
    if args.output == PIPE and args.json:
        raise UsageError("-o - and --json would both write to standard output; name a file")
    if args.output == PIPE and os.isatty(_STDOUT):
        raise UsageError("-o - would write a binary file to this terminal; name a file, or pipe it")


def _read(folder: Path) -> str:
    """Write standard input to a file whose suffix says what it holds; return its name."""
    path = folder / "stdin"
    with open(_STDIN, "rb", closefd=False) as stream, path.open("wb") as file:
        shutil.copyfileobj(stream, file)
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise MediaFileError("standard input is empty")
    suffix = next((suffix for start, suffix in _HEADS.items() if head.startswith(start)), "")
    if head[8:] == b"{":  # after the length of a header in JSON
        suffix = ".safetensors"
    if suffix == ".npz" and zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        suffix = ".pt" if any(name.endswith("/data.pkl") for name in names) else suffix
    return str(path.rename(path.with_suffix(suffix)))

"""What a command prints: lines of its report, one JSON object, and what is under way."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import escape_controls, one_line

Show = Callable[[str], None]


def say(line: str) -> None:
    """Print a line at once, harmless whatever names of files are in it."""
    print(escape_controls(line), flush=True)


def print_report(args: argparse.Namespace, report: dict[str, Any], lines: Iterable[str]) -> None:
    """Print a report: with `--json` as one object, otherwise as lines."""
    if args.json:
        print(json.dumps(report, indent=2))
        return
    for line in lines:
        say(line)


@contextlib.contextmanager
def status_line(args: argparse.Namespace) -> Iterator[Show]:
    """Yield a function that shows what is under way in the last line of a terminal.

    The line is taken away at the end. On a pipe, and with `--quiet`, the function does nothing.
    """
    if args.quiet or not sys.stderr.isatty():
        yield lambda line: None
        return

    def show(line: str) -> None:
        print(f"\r\033[K{one_line(line)}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        show("")


@contextlib.contextmanager
def quiet(args: argparse.Namespace) -> Iterator[None]:
    """Discard standard output with `--quiet`, but for the object of `--json`."""
    if not args.quiet or getattr(args, "json", None) is True:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield

"""Exceptions and warnings of this package; a wrong argument raises ValueError or TypeError."""

from __future__ import annotations

import sys
import warnings


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not hold a model of this family."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No file, folder or hub repository under the given name."""

    # OSError.__str__ would print only an errno where two arguments are given.
    __str__ = ValueError.__str__


class MediaFileError(ValueError):
    """An image or latent file that cannot be read, or that cannot hold what is to be written."""


class TrainingError(ValueError):
    """A training that cannot be started, resumed or continued."""


class UsageError(ValueError):
    """A command line that is wrong whatever the files hold; the exit status is 2."""


def warn(message: str) -> None:
    """Warn at the line outside this package that called into it, through whatever is between."""
    depth = outermost = 1
    frame = sys._getframe(1)
    while frame:
        if frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
            outermost = depth
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=outermost + 2)  # 1 is this function


def describe_error(error: Exception) -> str:
    """Return an error's message, with its type if users cannot have caused it."""
    expected = isinstance(error, (ValueError, TypeError, OSError))
    return str(error) if expected else f"{type(error).__name__}: {error}"


def one_line(message: object) -> str:
    r"""Return a message as one line for a terminal, with control characters escaped.

    >>> one_line("the tensors fit no model:\n  decoder a: missing\n  decoder b: missing")
    'the tensors fit no model: decoder a: missing; decoder b: missing'
    >>> one_line("no such file: \x1b[2J")
    'no such file: \\x1b[2J'
    """
    first, *more = (line.strip() for line in str(message).strip().split("\n"))
    return escape_controls(" ".join([first, "; ".join(more)]).strip())


def escape_controls(line: str) -> str:
    """Return a line with control characters escaped, which could steer a terminal."""
    # Surrogates stand for bytes of a file name that are not valid text.
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in line
    )

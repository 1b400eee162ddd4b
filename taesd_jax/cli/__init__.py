"""The `taesd-jax` command: one file a subcommand, with its arguments and its run."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any, NoReturn

# Exit status of a shell for SIGINT.
_INTERRUPTED = 128 + signal.SIGINT


def run() -> NoReturn:
    """Run `taesd-jax` as a program; Ctrl-C ends it with one line, imports included."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    from . import command

    command.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run `taesd-jax` and return its exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    from . import command

    return command.main(argv)


def leave(*_: Any) -> NoReturn:
    """End the process at once.

    XLA's threads may still compile or compute. They would crash on arrays that a normal exit frees.
    """
    os.write(2, b"taesd-jax: interrupted\n")
    os._exit(_INTERRUPTED)

"""The command `taesd-jax`."""

from __future__ import annotations

import _thread
import argparse
import codecs
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import UsageError, one_line
from ..version import __version__
from . import bench, checkpoints, compare, fit_thumbnails, images, train
from .options import describe_error

# Exit statuses of a shell for SIGINT and SIGPIPE.
_INTERRUPTED = 128 + signal.SIGINT
_BROKEN_PIPE = 141
# The one of argparse.
_USAGE_ERROR = 2

# The functions that add a command's arguments and run it; its help is the latter's docstring.
_COMMANDS = {
    "encode": (images.add_encode_arguments, images.encode),
    "decode": (images.add_decode_arguments, images.decode),
    "roundtrip": (images.add_roundtrip_arguments, images.roundtrip),
    "info": (checkpoints.add_info_arguments, checkpoints.info),
    "convert": (checkpoints.add_convert_arguments, checkpoints.convert),
    "verify": (checkpoints.add_verify_arguments, checkpoints.verify),
    "compare": (compare.add_arguments, compare.run),
    "fit-thumbnails": (fit_thumbnails.add_arguments, fit_thumbnails.run),
    "train": (train.add_arguments, train.run),
    "bench": (bench.add_arguments, bench.run),
}


def run() -> NoReturn:
    """Run `taesd-jax` as a program."""
    sys.unraisablehook = _interrupt_again
    try:
        status = main()
    except KeyboardInterrupt:
        # XLA's threads may still compile or compute. They would crash on arrays that are freed once
        # this exception is gone, and so would Python if it shut down normally meanwhile.
        os._exit(_INTERRUPTED)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `taesd-jax` and return its exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    codecs.register_error("taesd-jax", _encode_unprintable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="taesd-jax")
    args = argparse.Namespace(debug=False)
    try:
        try:
            _parser().parse_args(argv, args)
            with warnings.catch_warnings():
                warnings.simplefilter("default", UserWarning)
                warnings.showwarning = _show_warning
                return args.run(args)
        finally:
            # Here its errors are handled; those at Python's exit are not.
            _flush()
    except BrokenPipeError:
        return _BROKEN_PIPE
    except Exception as error:
        if args.debug:
            raise
        print(f"taesd-jax: error: {one_line(describe_error(error))}", file=sys.stderr)
        return _USAGE_ERROR if isinstance(error, UsageError) else 1


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        # The reader of our output is gone, or its disk is full: discard the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _encode_unprintable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Print undecodable bytes of file names unchanged, and escape what the stream cannot encode."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _interrupt_again(unraisable: Any) -> None:
    """Repeat a Ctrl-C that was raised, and ignored, in a callback of the garbage collector.

    JAX has such a callback, and it is often the first code to run after a long compilation.
    """
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    # After this hook has returned: an exception in here is ignored too.
    again = threading.Timer(0.05, _thread.interrupt_main)
    again.daemon = True
    again.start()


def _show_warning(message: object, *_: Any, **__: Any) -> None:
    print(f"taesd-jax: warning: {one_line(message)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taesd-jax", description="Tiny autoencoders (the TAESD family) in JAX."
    )
    parser.add_argument("--version", action="version", version=__version__)
    text = "show the traceback of an error"
    parser.add_argument("--debug", action="store_true", help=text)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (add_arguments, run) in _COMMANDS.items():
        description = (run.__doc__ or "").partition("\n")[0]
        command = subparsers.add_parser(name, help=description, description=description)
        command.set_defaults(run=run)
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)
        add_arguments(command)
    return parser

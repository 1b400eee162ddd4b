"""The command `taesd-jax`."""

from __future__ import annotations

import _thread
import argparse
import codecs
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from ..errors import UsageError, describe_error, one_line
from ..version import __version__
from . import completion, leave
from .terminal import quiet, status_line

# Exit status of a shell for SIGPIPE, and of argparse for wrong arguments.
_BROKEN_PIPE = 141
_USAGE_ERROR = 2
# Lines of an error that are printed: a file that is no model differs in a hundred tensors.
_MAX_LINES = 5

# Options of every subcommand, before or after its name.
_OPTIONS = {
    ("--debug",): "show the traceback of an error",
    ("-q", "--quiet"): "print errors and warnings only",
}
# The module of each subcommand NAME and what it does: run_NAME is in that module, and
# add_NAME_arguments in the module of the same name in `arguments`.
_COMMANDS = {
    "encode": ("images", "Encode images into latent files."),
    "decode": ("images", "Decode latent files into images."),
    "roundtrip": ("images", "Encode and decode; write both images side by side, print the PSNR."),
    "decode-video": ("video", "Decode latents of a video model into a video, frame by frame."),
    "encode-video": ("video", "Encode a video into latents of a video model, frame by frame."),
    "encode-dataset": (
        "datasets",
        "Encode a data set of images into shards; resumes what is begun.",
    ),
    "check-dataset": ("dataset_checks", "Check that a data set of latents is whole."),
    "decode-dataset": ("dataset_checks", "Decode the latents of a data set into images."),
    "info": ("checkpoints", "Show what a checkpoint holds."),
    "convert": ("checkpoints", "Convert a checkpoint to another format."),
    "verify": ("checkpoints", "Compare with PyTorch layer by layer; status 1 if they differ."),
    "compare": ("compare", "Compare models by PSNR, SSIM, GMSD and sharpness of their images."),
    "fit-thumbnails": ("fit_thumbnails", "Fit thumbnails, for decode --scale, and store them."),
    "train": ("train", "Train an encoder or decoder to match a larger model, or fine-tune one."),
    "bench": ("bench", "Measure speed and memory beside PyTorch, ONNX Runtime and OpenVINO."),
}


def run() -> NoReturn:
    """Run `taesd-jax` as a program."""
    sys.unraisablehook = _interrupt_again
    _open_closed_streams()
    try:
        status = main()
    except KeyboardInterrupt:
        leave()
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; see `taesd_jax.cli.main`."""
    codecs.register_error("taesd-jax", _encode_unprintable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="taesd-jax")
    args = argparse.Namespace(debug=False, quiet=False)
    try:
        try:
            words = [*(sys.argv[1:] if argv is None else argv)]
            if words[:1] == ["--complete"]:  # asked by the script of --completion
                print("\n".join(completion.complete(_parser(words[1:]), words[1:])))
                return 0
            _parser(words).parse_args(words, args)
            run = _import_run(args)
            with warnings.catch_warnings(), _raising_interrupts(), quiet(args):
                warnings.simplefilter("default", UserWarning)
                warnings.showwarning = _show_warning
                return run(args)
        finally:
            # Here its errors are handled; those at Python's exit are not.
            _flush()
    except BrokenPipeError:
        return _BROKEN_PIPE
    except Exception as error:
        if args.debug:
            raise
        _complain(f"taesd-jax: error: {one_line(_shorten(error))}")
        return _USAGE_ERROR if isinstance(error, UsageError) else 1


def _shorten(error: Exception) -> str:
    """Return what an error says, of a long list only the beginning."""
    message = describe_error(error)
    lines = message.split("\n")
    if len(lines) <= _MAX_LINES:
        return message
    more = f"and {len(lines) - _MAX_LINES} more, which --debug shows"
    return "\n".join([*lines[:_MAX_LINES], more])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Return a parser that knows the arguments of the subcommand in `words`, if there is one."""
    parser = _Parser(
        prog="taesd-jax",
        description="Tiny autoencoders (the TAESD family) in JAX.",
        # Keeps the lines of what the action "version" prints.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    text = 'print what completes words in bash and zsh: eval "$(taesd-jax --completion)"'
    parser.add_argument("--completion", action="version", version=completion.SCRIPT, help=text)
    for flags, text in _OPTIONS.items():
        parser.add_argument(*flags, action="store_true", help=text)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, (module_name, description) in _COMMANDS.items():
        command = subparsers.add_parser(name, help=description, description=description)
        if name == chosen:
            for flags, text in _OPTIONS.items():
                options: dict[str, Any] = {"action": "store_true", "default": argparse.SUPPRESS}
                command.add_argument(*flags, help=text, **options)
            module = importlib.import_module(f".arguments.{module_name}", __package__)
            getattr(module, f"add_{name.replace('-', '_')}_arguments")(command)
    return parser


def _import_run(args: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """Return what runs the subcommand; its module takes a second or more, to import JAX."""
    with status_line(args) as show:
        show("importing JAX")
        module = importlib.import_module(f".{_COMMANDS[args.command][0]}", __package__)
    return getattr(module, f"run_{args.command.replace('-', '_')}")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)
        raise


def _complain(line: str) -> None:
    """Print a line on standard error, or nowhere if that cannot be written."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Discard what is left in a stream: its reader is gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    clear = "\r\033[K" if sys.stderr.isatty() else ""  # a line of `status_line`
    _complain(f"{clear}taesd-jax: warning: {one_line(message)}")


def _open_closed_streams() -> None:
    """Open closed standard streams, so that no file of ours takes their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


@contextlib.contextmanager
def _raising_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt here, where work has to clean up."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)

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

import taesd_jax

from ..config import VARIANTS
from ..errors import one_line

_INTERRUPTED = 128 + signal.SIGINT

MODEL_HELP = (
    "a safetensors file; PATH for PATH_encoder.safetensors and PATH_decoder.safetensors; a folder; "
    "a hub id; one of " + ", ".join(VARIANTS) + "; or small, which comes with this package"
)


def run() -> NoReturn:
    """Run `taesd-jax` as a program."""
    sys.unraisablehook = _interrupt_again
    try:
        status = main()
    except KeyboardInterrupt:
        # XLA's threads may still compile or compute. They crash when what they read is freed, which
        # the trace of this exception keeps; and so does Python when it is taken down meanwhile.
        os._exit(_INTERRUPTED)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `taesd-jax` and return its exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    codecs.register_error("taesd-jax", _spell)
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
            # Here, where what comes of it is handled, and not when Python ends.
            _flush()
    except BrokenPipeError:
        return 141
    except Exception as error:
        if args.debug:
            raise
        expected = isinstance(error, (ValueError, TypeError, OSError))
        kind = "" if expected else f"{type(error).__name__}: "
        print(f"taesd-jax: error: {kind}{one_line(error)}", file=sys.stderr)
        return 1


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        # Whoever read our output has gone, or its disk is full; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Print bytes of a name that are no text as they are, and what a stream lacks escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _interrupt_again(lost: Any) -> None:
    """Repeat a Ctrl-C that fell into a callback of the garbage collector, where it is ignored.

    JAX has such a callback, and it is often what runs first after a long compilation.
    """
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    # Later: in here it would be ignored as well.
    again = threading.Timer(0.05, _thread.interrupt_main)
    again.daemon = True
    again.start()


def _show_warning(message, *_, **__) -> None:
    print(f"taesd-jax: warning: {one_line(message)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    from . import bench as benchmarks
    from . import checkpoints
    from . import compare as comparison
    from . import fit_thumbnails as thumbnails
    from . import images as pictures
    from . import train as training

    parser = argparse.ArgumentParser(
        prog="taesd-jax", description="Tiny autoencoders (the TAESD family) in JAX."
    )
    parser.add_argument("--version", action="version", version=taesd_jax.__version__)
    debug = "show the trace of an error"
    parser.add_argument("--debug", action="store_true", help=debug)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
        return sub

    encode = command("encode", pictures.encode, "encode pictures into latent files")
    encode.add_argument("pictures", nargs="+", help="picture files or glob patterns")
    encode.add_argument(
        "--format",
        choices=("npz", "npy", "safetensors", "png"),
        help="format of the latents; png keeps 8 bits (default: what -o ends with, or npz)",
    )
    decode = command("decode", pictures.decode, "decode latent files into pictures")
    decode.add_argument("latents", nargs="+", help="latent files or glob patterns")
    decode.add_argument(
        "--layout",
        choices=("nhwc", "nchw"),
        default="nhwc",
        help="axes of the latents; PyTorch programs write nchw (default: %(default)s)",
    )
    decode.add_argument(
        "--scale",
        choices=("1", "1/2", "1/4", "1/8", "1/16", "1/32"),
        default="1",
        help="size of the pictures; small ones take a fraction of the work (default: %(default)s)",
    )
    decode.add_argument(
        "--thumbnails", metavar="FILE", help="thumbnails of a fine-tuned model, see fit-thumbnails"
    )
    text = "encode and decode pictures, and write original and result side by side"
    roundtrip = command("roundtrip", pictures.roundtrip, text)
    text = "picture files or glob patterns (default: a photograph that comes with this package)"
    roundtrip.add_argument("pictures", nargs="*", help=text)
    for sub in (encode, decode, roundtrip):
        sub.add_argument("-o", "--output", help="file or folder (default: beside each input)")
        sub.add_argument("--model", default="small", help=f"{MODEL_HELP} (default: %(default)s)")
        sub.add_argument(
            "--dtype",
            choices=("float32", "bfloat16", "float16"),
            default="float32",
            help="dtype of the computation (default: %(default)s)",
        )
        sub.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: JAX's own")

    info = command("info", checkpoints.info, "say what a checkpoint holds")
    info.add_argument("model", help=MODEL_HELP)
    info.add_argument("--json", action="store_true", help="print JSON")

    convert = command("convert", checkpoints.convert, "convert a checkpoint to another format")
    convert.add_argument("model", help=MODEL_HELP + "; with torch also .pth")
    convert.add_argument("target", help="file, folder (diffusers) or PATH (original, pth)")
    convert.add_argument(
        "--to",
        choices=("diffusers", "original", "comfyui", "flax", "pth"),
        help="format (default: flax for a .safetensors target, else diffusers)",
    )
    convert.add_argument("--variant", choices=tuple(VARIANTS), help="label equal architectures")
    convert.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="store in this dtype"
    )

    text = "compare pictures of models by PSNR, SSIM, GMSD and sharpness"
    compare = command("compare", comparison.run, text)
    compare.add_argument("models", nargs="+", help=MODEL_HELP)
    compare.add_argument("--pictures", nargs="+", required=True, help="files or glob patterns")
    longest = "longest side in pixels; larger pictures are shrunk to it (default: %(default)s)"
    compare.add_argument("--side", type=_positive, default=640, help=longest)
    compare.add_argument("--json", metavar="FILE", help="write the figures as JSON too")

    text = "fit the thumbnails of a model, see decode --scale"
    fit = command("fit-thumbnails", thumbnails.run, text)
    fit.add_argument("pictures", nargs="+", help="photographs to fit to, or glob patterns")
    fit.add_argument("--held-out", nargs="+", default=[], help="photographs to measure with")
    fit.add_argument("--model", default="taesd", help=f"{MODEL_HELP} (default: %(default)s)")
    fit.add_argument("--name", help="of its entry (default: the variant)")
    fit.add_argument("--side", type=_positive, default=640, help=longest)
    fit.add_argument("-o", "--output", required=True, help="file; entries of other names stay")

    text = "teach a tiny encoder or decoder what a larger model does, or fine-tune one"
    training.add_arguments(command("train", training.run, text), MODEL_HELP)

    text = "measure speed and memory beside PyTorch, ONNX Runtime and OpenVINO"
    bench = command("bench", benchmarks.run, text)
    bench.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=["taesd"])
    bench.add_argument(
        "--components", nargs="+", choices=("decoder", "encoder"), default=["decoder", "encoder"]
    )
    bench.add_argument("--sizes", nargs="+", type=_positive, default=[512], help="sides of images")
    bench.add_argument("--batch", nargs="+", type=_positive, default=[1])
    bench.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    bench.add_argument("--rounds", type=_positive, default=5, help="default: %(default)s")
    bench.add_argument("--threads", type=_positive, help="CPUs, for all (default: those here)")
    bench.add_argument(
        "--peers", nargs="+", choices=("all", "none", *benchmarks.PEERS), default=["all"]
    )
    bench.add_argument("--strategies", action="store_true", help="our strategies, not peers")
    bench.add_argument("--peaks", action="store_true", help="peak memory, each in its own process")
    bench.add_argument("--overhead", action="store_true", help="overhead of a call")
    bench.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    bench.add_argument("--plot", metavar="FILE", help="draw the medians (needs matplotlib)")

    verify = command("verify", checkpoints.verify, "compare with PyTorch layer by layer")
    verify.add_argument("model", help=MODEL_HELP + "; with torch also .pth")
    verify.add_argument("--picture", help="picture to encode (default: a synthetic one)")
    verify.add_argument("--seed", type=int, default=0, help="seed of the synthetic picture")
    verify.add_argument("--json", metavar="FILE", help="write the report as JSON too")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)

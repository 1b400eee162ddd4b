"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse

from ...config import VARIANTS

MODEL_HELP = (
    "a safetensors file; PATH for PATH_encoder.safetensors and PATH_decoder.safetensors; a folder; "
    "a hub id; one of " + ", ".join(VARIANTS) + "; or small, which comes with this package"
)
TORCH_MODEL_HELP = f"{MODEL_HELP}; with torch also .pth"
IMAGES_HELP = "image files, folders or glob patterns"
LONGEST_HELP = "longest side in pixels; larger images are resized to it (default: %(default)s)"
DTYPES = ("float32", "bfloat16", "float16")


def positive_integer(text: str) -> int:
    """Parse a positive integer of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of 1 or more, got {text!r}")
    return int(text)


def natural_number(text: str) -> int:
    """Parse an integer of the command line that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of 0 or more, got {text!r}")
    return int(text)


def file_name(text: str) -> str:
    """Parse the name of a file or folder to write."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a file or folder, got ''")
    return text


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option `--json`."""
    text = "print the report as one JSON object, and nothing else"
    parser.add_argument("--json", action="store_true", help=text)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add the option `--overwrite`."""
    text = "replace existing files, also those that another program or command wrote"
    parser.add_argument("--overwrite", action="store_true", help=text)

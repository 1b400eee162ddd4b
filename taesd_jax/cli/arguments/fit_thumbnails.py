"""Arguments of `taesd-jax fit-thumbnails`."""

from __future__ import annotations

import argparse

from .common import IMAGES_HELP, LONGEST_HELP, MODEL_HELP, file_name, positive_integer


def add_fit_thumbnails_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax fit-thumbnails`."""
    add = parser.add_argument
    add("images", nargs="+", help=f"{IMAGES_HELP} to fit to")
    add("--held-out", nargs="+", default=[], help="images to evaluate with, not fitted to")
    add("--model", default="taesd", help=f"{MODEL_HELP} (default: %(default)s)")
    add("--name", help="name of the entry in the file (default: the variant)")
    add("--side", type=positive_integer, default=640, help=LONGEST_HELP)
    text = "file of thumbnails to add to or to create"
    add("-o", "--output", type=file_name, required=True, help=text)

"""Arguments of `taesd-jax compare`."""

from __future__ import annotations

import argparse

from .common import IMAGES_HELP, LONGEST_HELP, MODEL_HELP, add_json, positive_integer


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax compare`."""
    add = parser.add_argument
    add("models", nargs="+", help=MODEL_HELP)
    add("--images", nargs="+", required=True, help=IMAGES_HELP)
    add("--side", type=positive_integer, default=640, help=LONGEST_HELP)
    add_json(parser)

"""Arguments of `taesd-jax check-dataset` and `decode-dataset`."""

from __future__ import annotations

import argparse

from .common import DTYPES, MODEL_HELP, add_overwrite, file_name, positive_integer


def add_check_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax check-dataset`."""
    parser.add_argument("dataset", help="folder that encode-dataset wrote")


def add_decode_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax decode-dataset`."""
    add = parser.add_argument
    add("dataset", help="folder that encode-dataset wrote")
    add("-o", "--output", type=file_name, required=True, help="folder of the images")
    add_overwrite(parser)
    add("--model", help=f"{MODEL_HELP} (default: the one that the data set names)")
    add("--count", type=positive_integer, help="decode only the first ones")
    add("--batch-size", type=positive_integer, default=8, help="default: %(default)s")
    add("--dtype", choices=DTYPES, default="float32")
    add("--device", choices=("cpu", "gpu", "tpu"), help="device to run on (default: JAX's)")

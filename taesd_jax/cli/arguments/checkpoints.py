"""Arguments of `taesd-jax info`, `convert` and `verify`."""

from __future__ import annotations

import argparse

from ...config import VARIANTS
from .common import DTYPES, TORCH_MODEL_HELP, add_json, file_name


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax info`."""
    parser.add_argument("model", help=f"{TORCH_MODEL_HELP}; or the file of a video model")
    add_json(parser)


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax convert`."""
    add = parser.add_argument
    add("model", help=TORCH_MODEL_HELP)
    add("target", type=file_name, help="file, folder (diffusers) or PATH (original, pth)")
    add(
        "--to",
        choices=("diffusers", "original", "comfyui", "flax", "pth"),
        help="format (default: flax for a .safetensors target, else diffusers)",
    )
    add("--variant", choices=tuple(VARIANTS), help="name of the variant, of equal architecture")
    add("--dtype", choices=DTYPES, help="dtype of the stored tensors")
    text = "replace existing files; a model may then be converted in place"
    add("--overwrite", action="store_true", help=text)


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax verify`."""
    add = parser.add_argument
    add("model", help=TORCH_MODEL_HELP)
    add("--image", metavar="FILE", help="image to encode (default: a synthetic one)")
    add("--seed", type=int, default=0, help="seed of the synthetic image (default: %(default)s)")
    text = "list every layer, not only those that are too far off"
    add("--layers", action="store_true", help=text)
    add_json(parser)

"""Arguments of `taesd-jax encode`, `decode` and `roundtrip`."""

from __future__ import annotations

import argparse

from .common import DTYPES, IMAGES_HELP, MODEL_HELP, add_json, add_overwrite, file_name


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax encode`."""
    add = parser.add_argument
    add("images", nargs="+", help=f"{IMAGES_HELP}; - for standard input")
    add(
        "--format",
        choices=("npz", "npy", "safetensors", "png"),
        help="format of the latents; png keeps 8 bits (default: the suffix of -o, or npz)",
    )
    _add_common_arguments(parser)


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax decode`."""
    add = parser.add_argument
    add(
        "latents",
        nargs="+",
        help="latent files, folders or glob patterns: of encode, .latent of ComfyUI, caches of "
        "kohya's sd-scripts, or arrays in .npy, .npz, .safetensors, .pt; - for standard input",
    )
    add(
        "--data-format",
        type=str.upper,
        choices=("NHWC", "NCHW"),
        help="axes of the latents (default: as the file or the number of channels tells)",
    )
    add("--key", metavar="NAME", help="name of the latent in a file of several arrays")
    add("--raw", action="store_true", help="the latents have the scale of the full VAE")
    add(
        "--scale",
        choices=("1", "1/2", "1/4", "1/8", "1/16", "1/32"),
        default="1",
        help="size of the images; small ones take a fraction of the work (default: %(default)s)",
    )
    add("--thumbnails", metavar="FILE", help="thumbnails of a fine-tuned model, see fit-thumbnails")
    _add_common_arguments(parser)


def add_roundtrip_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax roundtrip`."""
    text = f"{IMAGES_HELP}; - for standard input (default: a photograph of this package)"
    parser.add_argument("images", nargs="*", help=text)
    _add_common_arguments(parser)


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "file, folder, or - for standard output (default: beside one input, for several a folder"
    add("-o", "--output", type=file_name, help=f"{text} in the working folder)")
    add_overwrite(parser)
    add_json(parser)
    add("--model", default="small", help=f"{MODEL_HELP} (default: %(default)s)")
    text = "dtype of the computation (default: %(default)s)"
    add("--dtype", choices=DTYPES, default="float32", help=text)
    add("--device", choices=("cpu", "gpu", "tpu"), help="device to run on (default: JAX's)")

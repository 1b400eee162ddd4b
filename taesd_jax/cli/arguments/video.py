"""Arguments of `taesd-jax decode-video` and `encode-video`."""

from __future__ import annotations

import argparse

from ...video.config import VIDEO_VARIANTS
from .common import DTYPES, add_overwrite, file_name, positive_integer


def add_decode_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax decode-video`."""
    add = parser.add_argument
    text = "a .npy file, also larger than memory, or a .npz file of one array: (t, h, w, z)"
    add("latents", help=text)
    text = "a folder, for numbered PNG files, or a .mp4, .mkv, .mov or .webm file, with PyAV"
    add("-o", "--output", type=file_name, required=True, help=text)
    text = "axes of the latents (default: %(default)s)"
    add("--data-format", type=str.upper, choices=("THWC", "CTHW"), default="THWC", help=text)
    add("--key", metavar="NAME", help="name of the latents in an .npz file of several arrays")
    add("--fps", type=_rate, default=24, help="frames a second (default: %(default)s)")
    add("--audio", metavar="FILE", help="copy the sound of this file, if it has any")
    _add_common_arguments(parser)


def add_encode_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax encode-video`."""
    add = parser.add_argument
    add("video", help="a video file, with PyAV, or a folder of images in the order of their names")
    text = "a .npy file, for latents (t, h, w, z)"
    add("-o", "--output", type=file_name, required=True, help=text)
    _add_common_arguments(parser)


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a safetensors or, with torch, .pth file of published names")
    text = "the variant, where the name of the file and its tensors leave several"
    add("--variant", choices=tuple(VIDEO_VARIANTS), help=text)
    text = "latents computed at a time (default: %(default)s)"
    add("--chunk", type=positive_integer, default=1, help=text)
    text = "dtype of the computation (default: %(default)s)"
    add("--dtype", choices=DTYPES, default="float32", help=text)
    add_overwrite(parser)


def _rate(text: str) -> float:
    """Parse frames a second."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number of 0.01 to 1000, got {text!r}")
    return value

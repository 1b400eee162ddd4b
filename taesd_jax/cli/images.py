"""The commands `taesd-jax encode`, `decode` and `roundtrip`."""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..autoencoder import AutoencoderTiny
from ..errors import MediaFileError, one_line
from ..io.arrays import SUFFIXES, TIFF, is_plain_tiff
from ..io.files import signature
from ..io.images import check_image_path, pad_image, psnr, read_image, write_image
from ..io.latent_png import clipped_share
from ..io.latents import SUFFIXES as LATENT_SUFFIXES
from ..io.latents import check_finite, read_latent, write_latent
from ..model.inputs import LARGE_SHARE
from ..model.validation import check_latent
from ..weights.files import digest_tree
from ..weights.sources import BUNDLED
from .large import decode_large, encode_large
from .options import IMAGES_HELP, MODEL_HELP, expand, expand_images, for_each, model_on_device
from .outputs import add_overwrite, check_outputs, file_name, output_paths


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax encode`."""
    parser.add_argument("images", nargs="+", help=IMAGES_HELP)
    parser.add_argument(
        "--format",
        choices=("npz", "npy", "safetensors", "png"),
        help="format of the latents; png keeps 8 bits (default: the suffix of -o, or npz)",
    )
    _add_common_arguments(parser)


def run_encode(args: argparse.Namespace) -> int:
    """Encode images into latent files."""
    inputs = expand_images(args.images)
    suffixes = (f".{args.format}",) if args.format else LATENT_SUFFIXES

    def check_suffix(path: Path) -> None:
        if path.suffix.lower() not in suffixes:
            raise MediaFileError(f"{path}: expected a file that ends with {', '.join(suffixes)}")

    name = f".latent.{args.format or 'npz'}"
    results = output_paths(inputs, args.output, name, check_suffix=check_suffix)
    check_outputs(args, results, inputs)
    with model_on_device(args, "encoder") as vae:
        encoder_sha256 = digest_tree(vae.params["encoder"])

        def work(source: Path, result: Path) -> str:
            if _is_large(source, result):
                return encode_large(vae, source, result)
            image = read_image(source)
            latent = _encode(vae, image)
            options = {"image_size": image.shape[:2], "encoder_sha256": encoder_sha256}
            options["software"] = signature("encode")
            write_latent(result, latent, config=vae.config, **options)
            note = ""
            if result.suffix.lower() == ".png" and (share := clipped_share(latent, vae.config)):
                note = f", {share:.2%} of the values clipped to the range of 8 bits"
            _, h, w, z = latent.shape
            return f"{result}: latent {h}x{w}x{z}{note}"

        return for_each(inputs, results, _announced(work), debug=args.debug)


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax decode`."""
    add = parser.add_argument
    add(
        "latents",
        nargs="+",
        help="latent files or glob patterns: of encode, .latent of ComfyUI, caches of kohya's "
        "sd-scripts, or arrays in .npy, .npz, .safetensors, .pt",
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


def run_decode(args: argparse.Namespace) -> int:
    """Decode latent files into images."""
    inputs = expand(args.latents)
    scale = float(Fraction(args.scale))

    def check_suffix(path: Path) -> None:
        if path.suffix.lower() != ".npy" or scale != 1:
            check_image_path(path)

    results = output_paths(inputs, args.output, ".decoded.png", check_suffix=check_suffix)
    check_outputs(args, results, inputs)
    # The advice of `vae.decode` in the same case, which is for Python.
    warnings.filterwarnings("ignore", "over .* of the latents are beyond")
    reading = {"data_format": args.data_format, "key": args.key, "raw": args.raw}
    with model_on_device(args, "decoder") as vae:
        if "encoder" in vae.params:
            reading["encoder_sha256"] = digest_tree(vae.params["encoder"])

        def work(source: Path, result: Path) -> str:
            latent, (h, w) = read_latent(source, config=vae.config, **reading)
            check_latent(latent, vae.config)
            check_finite(latent)
            if clipped_share(latent, vae.config) > LARGE_SHARE and not args.raw:
                warnings.warn(
                    f"{source}: many values are beyond +-{vae.config.latent_magnitude:g}: if they "
                    f"are those of the full VAE, pass --raw",
                    stacklevel=1,
                )
            if result.suffix.lower() in SUFFIXES and scale == 1:
                return decode_large(vae, source, latent, result, size=(h, w), reading=reading)
            images = np.asarray(vae.decode(latent, scale=scale).sample)
            h, w = (math.ceil(side * scale) for side in (h, w))
            paths = [result]
            if len(images) > 1:
                paths = [
                    result.with_name(f"{result.stem}-{i}{result.suffix}")
                    for i in range(len(images))
                ]
                check_outputs(args, paths, inputs)
            for path, image in zip(paths, images, strict=True):
                write_image(path, image[:h, :w], software=signature("decode"))
            return f"{', '.join(map(str, paths))}: {w}x{h}"

        return for_each(inputs, results, _announced(work), debug=args.debug)


def add_roundtrip_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax roundtrip`."""
    text = f"{IMAGES_HELP} (default: a photograph that comes with this package)"
    parser.add_argument("images", nargs="*", help=text)
    _add_common_arguments(parser)


def run_roundtrip(args: argparse.Namespace) -> int:
    """Encode and decode images; write original and result side by side and print the PSNR."""
    inputs = expand_images(args.images) or [BUNDLED / "sample.jpg"]
    output = args.output if args.output or args.images else "."
    check = {"check_suffix": check_image_path}
    suffix = f".{Path(os.path.abspath(args.model)).stem}.roundtrip.png"
    results = output_paths(inputs, output, suffix, **check)
    check_outputs(args, results, inputs)
    with model_on_device(args, "encoder", "decoder") as vae:

        def work(source: Path, result: Path) -> str:
            image = read_image(source)
            h, w, _ = image.shape
            decoded = np.asarray(vae.decode(_encode(vae, image)).sample)[0, :h, :w]
            both = np.concatenate([image, decoded], axis=1)
            write_image(result, both, software=signature("roundtrip"))
            return f"{source}: {w}x{h}, PSNR {psnr(image, decoded):.2f} dB -> {result}"

        return for_each(inputs, results, _announced(work), debug=args.debug)


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--output", type=file_name, help="file or folder (default: next to each input)")
    add_overwrite(parser)
    add("--model", default="small", help=f"{MODEL_HELP} (default: %(default)s)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="dtype of the computation (default: %(default)s)",
    )
    add("--device", choices=("cpu", "gpu", "tpu"), help="device to run on (default: JAX's)")


def _announced(work: Callable[[Path, Path], str]) -> Callable[[Path, Path], str]:
    """Let a terminal say what takes so long: an image of a new size is compiled first."""
    if not sys.stderr.isatty():
        return work

    def announced_work(source: Path, result: Path) -> str:
        line = f"\r\033[K{one_line(source)}: compiling for its size, and running"
        print(line, end="", file=sys.stderr, flush=True)
        try:
            return work(source, result)
        finally:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    return announced_work


def _encode(vae: AutoencoderTiny, image: np.ndarray) -> np.ndarray:
    padded = pad_image(image, vae.config.spatial_factor)
    latent = np.asarray(vae.encode(padded[None]).latents)
    check_finite(latent)
    return latent


def _is_large(source: Path, result: Path) -> bool:
    """Return whether an image is encoded strip by strip: .npy, or plain TIFF to .npy."""
    if source.suffix.lower() == ".npy":
        return True
    to_npy = result.suffix.lower() == ".npy"
    return to_npy and source.suffix.lower() in TIFF and is_plain_tiff(source)

"""`taesd-jax encode`, `decode` and `roundtrip`."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..autoencoder import AutoencoderTiny
from ..errors import PictureError
from ..io.arrays import SUFFIXES, TIFF, is_plain_tiff
from ..io.images import pad_image, psnr, read_image, write_image
from ..io.latents import check_finite, clipped_share, read_latent, write_latent
from ..model.validation import check_latent
from ..weights.sources import BUNDLED
from .large import decode_large, encode_large
from .options import expand, for_each, load_model, on_device, outputs

_RESULTS = (".latent.png", ".decoded.png", ".roundtrip.png")


def encode(args: argparse.Namespace) -> int:
    """Encode pictures into latent files."""
    inputs = expand(args.pictures, skip=_RESULTS)
    results = outputs(inputs, args.output, f".latent.{args.format or 'npz'}")
    for result in results:
        if args.format and result.suffix.lower() != f".{args.format}":
            raise PictureError(f"{result} does not end .{args.format}; leave out --format or -o")
    with on_device(args.device):
        vae = load_model(args)
        vae.check_loaded("encoder")

        def work(source: Path, result: Path) -> str:
            if _is_large(source, result):
                return encode_large(vae, source, result)
            image = read_image(source)
            latent = _encode(vae, image)
            write_latent(result, latent, config=vae.config, image_size=image.shape[:2])
            note = ""
            if result.suffix.lower() == ".png" and (share := clipped_share(latent, vae.config)):
                note = f", {share:.2%} of values clipped to 8 bits' range"
            return f"{result}: latent {_size(latent[0])}{note}"

        return for_each(inputs, results, work, debug=args.debug)


def decode(args: argparse.Namespace) -> int:
    """Decode latent files into pictures."""
    inputs = expand(args.latents)
    results = outputs(inputs, args.output, ".decoded.png")
    scale = float(Fraction(args.scale))
    for result in results:
        if scale != 1 and result.suffix.lower() == ".npy":
            raise PictureError(f"{result}: with --scale write a picture, such as .png or .tif")
    with on_device(args.device):
        vae = load_model(args)
        vae.check_loaded("decoder")

        def work(source: Path, result: Path) -> str:
            latent, size = read_latent(source, config=vae.config)
            if args.layout == "nchw":
                latent = latent.transpose(0, 2, 3, 1)
            with _hints(source):
                check_latent(latent, vae.config)
                check_finite(latent)
            h, w = _picture_size(latent, size, vae, source)
            if result.suffix.lower() in SUFFIXES and scale == 1:
                options = {"size": (h, w), "layout": args.layout}
                return decode_large(vae, source, latent, result, **options)
            images = np.asarray(vae.decode(latent, scale=scale).sample)
            h, w = (math.ceil(side * scale) for side in (h, w))
            names = [result]
            if len(images) > 1:
                names = [
                    result.with_name(f"{result.stem}-{i}{result.suffix}")
                    for i in range(len(images))
                ]
            for name, image in zip(names, images, strict=True):
                write_image(name, image[:h, :w])
            return f"{', '.join(map(str, names))}: {w}x{h}"

        return for_each(inputs, results, work, debug=args.debug)


def roundtrip(args: argparse.Namespace) -> int:
    """Encode and decode pictures; write original and result side by side and print the PSNR."""
    inputs = expand(args.pictures, skip=_RESULTS) or [BUNDLED / "sample.jpg"]
    into = args.output if args.output or args.pictures else "."
    results = outputs(inputs, into, ".roundtrip.png")
    with on_device(args.device):
        vae = load_model(args)
        vae.check_loaded("encoder")
        vae.check_loaded("decoder")

        def work(source: Path, result: Path) -> str:
            image = read_image(source)
            h, w, _ = image.shape
            decoded = np.asarray(vae.decode(_encode(vae, image)).sample)[0, :h, :w]
            write_image(result, np.concatenate([image, decoded], axis=1))
            return f"{source}: {w}x{h}, PSNR {psnr(image, decoded):.2f} dB -> {result}"

        return for_each(inputs, results, work, debug=args.debug)


def _encode(vae: AutoencoderTiny, image: np.ndarray) -> np.ndarray:
    padded = pad_image(image, vae.config.spatial_factor)
    latent = np.asarray(vae.encode(padded[None]).latents)
    check_finite(latent)
    return latent


@contextlib.contextmanager
def _hints(source: Path) -> Iterator[None]:
    """Name the file, and what the command offers, in an error about its content."""
    try:
        yield
    except ValueError as error:
        hint = "; pass --layout nchw" if "NCHW" in str(error) else ""
        raise PictureError(f"{source}: {error}{hint}") from error


def _picture_size(
    latent: np.ndarray, size: tuple[int, int] | None, vae: AutoencoderTiny, source: Path
) -> tuple[int, int]:
    h, w = (side * vae.config.spatial_factor for side in latent.shape[1:3])
    if size is None:
        return h, w
    if not (0 < size[0] <= h and 0 < size[1] <= w):
        raise PictureError(
            f"{source}: it says its picture was {size[1]}x{size[0]}, but it decodes to {w}x{h}"
        )
    return size


def _is_large(source: Path, result: Path) -> bool:
    """Return whether a picture is encoded strip by strip: .npy, and plain TIFF into .npy."""
    if source.suffix.lower() == ".npy":
        return True
    into = result.suffix.lower() == ".npy"
    return into and source.suffix.lower() in TIFF and is_plain_tiff(source)


def _size(array: np.ndarray) -> str:
    h, w, c = array.shape
    return f"{h}x{w}x{c}"

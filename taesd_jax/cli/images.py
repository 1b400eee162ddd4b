"""The commands `taesd-jax encode`, `decode` and `roundtrip`."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError, UsageError, warn
from ..io.arrays import SUFFIXES, TIFF, is_plain_tiff
from ..io.files import signature
from ..io.images import check_image_path, pad_image, psnr, read_image, write_image
from ..io.latent_content import read_content
from ..io.latent_png import clipped_share
from ..io.latents import SUFFIXES as LATENT_SUFFIXES
from ..io.latents import check_finite, read_latent, write_latent
from ..model.inputs import LARGE_SHARE
from ..model.layers import scales_of
from ..model.validation import check_latent
from ..weights.files import digest_tree
from ..weights.sources import BUNDLED
from .large import decode_large, encode_large
from .options import Work, expand_images, expand_latents, for_each, model_on_device
from .outputs import check_outputs, output_paths
from .pipes import PIPE, piped
from .terminal import Show


def run_encode(args: argparse.Namespace) -> int:
    """Encode images into latent files."""
    suffixes = (f".{args.format}",) if args.format else LATENT_SUFFIXES
    suffix = f".{args.format or 'npz'}"

    def check_suffix(path: Path) -> None:
        if path.suffix.lower() not in suffixes:
            raise MediaFileError(f"{path}: expected a file that ends with {', '.join(suffixes)}")

    with piped(args, args.images, suffix) as (sources, output, prefix):
        inputs = expand_images(sources)
        naming = {"model": args.model, "suffix": f".latent{suffix}", "check_suffix": check_suffix}
        results = output_paths(inputs, sources, output, **naming)
        check_outputs(args, results, inputs)
        with model_on_device(args, "encoder") as vae:
            work = _encoder(vae)
            return for_each(args, inputs, results, work, prefix=prefix)


def _encoder(vae: AutoencoderTiny) -> Work:
    announce, encoder_sha256 = _announcer(), digest_tree(vae.params["encoder"])

    def work(source: Path, result: Path, show: Show) -> tuple[str, dict[str, Any]]:
        if _is_large(source, result):
            shape, note = encode_large(vae, source, result, show)
        else:
            image = read_image(source)
            announce(show, source, image.shape[:2])
            latent = _encode(vae, image)
            options = {"image_size": image.shape[:2], "encoder_sha256": encoder_sha256}
            options["software"] = signature("encode")
            write_latent(result, latent, config=vae.config, **options)
            shape, note = latent.shape[1:], ""
            if result.suffix.lower() == ".png" and (share := clipped_share(latent, vae.config)):
                note = f", {share:.2%} of the values clipped to the range of 8 bits"
        size = "x".join(map(str, shape))
        return f"{result}: latent {size}{note}", {"output": str(result), "latent": [*shape]}

    return work


def run_decode(args: argparse.Namespace) -> int:
    """Decode latent files into images."""
    scale = float(Fraction(args.scale))

    def check_suffix(path: Path) -> None:
        if path.suffix.lower() != ".npy" or scale != 1:
            check_image_path(path)

    with piped(args, args.latents, ".png") as (sources, output, prefix):
        inputs = expand_latents(sources)
        naming = {"model": args.model, "suffix": ".decoded.png", "check_suffix": check_suffix}
        results = output_paths(inputs, sources, output, **naming)
        # Several latents in one file are written under other names.
        single = [
            result
            for source, result in zip(inputs, results, strict=True)
            if not result.exists() or _count_latents(source, args.key) == 1
        ]
        check_outputs(args, single, inputs)
        with model_on_device(args, "decoder") as vae:
            if scale not in (1, *scales_of(vae.config)):
                listed = ", ".join(str(Fraction(s)) for s in scales_of(vae.config))
                raise UsageError(f"--scale for {args.model} is 1, {listed}, got {args.scale}")
            work = _decoder(args, vae, inputs)
            return for_each(args, inputs, results, work, prefix=prefix)


def _decoder(args: argparse.Namespace, vae: AutoencoderTiny, inputs: list[Path]) -> Work:
    scale, announce = float(Fraction(args.scale)), _announcer()
    reading = {"data_format": args.data_format, "key": args.key, "raw": args.raw}
    if "encoder" in vae.params:
        reading["encoder_sha256"] = digest_tree(vae.params["encoder"])
    # The advice of `vae.decode` in the same case, which is for Python.
    warnings.filterwarnings("ignore", "over .* of the latents are beyond")

    def work(source: Path, result: Path, show: Show) -> tuple[str, dict[str, Any]]:
        latent, (h, w) = read_latent(source, config=vae.config, **reading)
        check_latent(latent, vae.config)
        check_finite(latent)
        if clipped_share(latent, vae.config) > LARGE_SHARE and not args.raw:
            warn(
                f"{source}: many values are beyond +-{vae.config.latent_magnitude:g}: if they "
                f"are those of the full VAE, pass --raw"
            )
        paths, note = [result], ""
        if result.suffix.lower() in SUFFIXES and scale == 1:
            large = {"size": (h, w), "reading": reading, "show": show}
            note = decode_large(vae, source, latent, result, **large)
        else:
            h, w = (math.ceil(side * scale) for side in (h, w))
            if len(latent) > 1:
                if args.output == PIPE:
                    raise MediaFileError(
                        f"{source}: got {len(latent)} latents for one standard output; name a file"
                    )
                names = [f"{result.stem}-{i}{result.suffix}" for i in range(len(latent))]
                paths = [result.with_name(name) for name in names]
                check_outputs(args, paths, inputs)
            announce(show, source, (h, w))
            images = np.asarray(vae.decode(latent, scale=scale).sample)
            for path, image in zip(paths, images, strict=True):
                write_image(path, image[:h, :w], software=signature("decode"))
        fields = {"outputs": [*map(str, paths)], "width": w, "height": h}
        return f"{', '.join(fields['outputs'])}: {w}x{h}{note}", fields

    return work


def run_roundtrip(args: argparse.Namespace) -> int:
    """Encode and decode images; write original and result side by side and print the PSNR."""
    with piped(args, args.images, ".png") as (sources, output, prefix):
        inputs = expand_images(sources) or [BUNDLED / "sample.jpg"]
        output = output if output or args.images else "."
        naming = {"suffix": ".roundtrip.png", "check_suffix": check_image_path}
        results = output_paths(inputs, sources, output, model=args.model, **naming)
        check_outputs(args, results, inputs)
        with model_on_device(args, "encoder", "decoder") as vae:
            announce = _announcer()

            def work(source: Path, result: Path, show: Show) -> tuple[str, dict[str, Any]]:
                image = read_image(source)
                h, w, _ = image.shape
                announce(show, source, (h, w))
                decoded = np.asarray(vae.decode(_encode(vae, image)).sample)[0, :h, :w]
                both = np.concatenate([image, decoded], axis=1)
                write_image(result, both, software=signature("roundtrip"))
                value = psnr(image, decoded)
                fields = {"output": str(result), "width": w, "height": h}
                fields["psnr_db"] = value if math.isfinite(value) else None
                return f"{source}: {w}x{h}, PSNR {value:.2f} dB -> {result}", fields

            return for_each(args, inputs, results, work, prefix=prefix)


def _announcer() -> Callable[[Show, Path, tuple[int, int]], None]:
    """Return a function that shows which image is under way: one of a new size is compiled for."""
    seen: set[tuple[int, int]] = set()

    def announce(show: Show, source: Path, size: tuple[int, int]) -> None:
        h, w = size
        show(f"{source}: {'running' if size in seen else 'compiling for'} {w}x{h}")
        seen.add(size)

    return announce


def _count_latents(source: Path, key: str | None) -> int:
    """Return how many latents a file holds; 1 where that is not known yet."""
    try:
        shape = read_content(source, config=AutoencoderTinyConfig(), key=key).array.shape
    except Exception:  # whoever reads it says what is wrong with it
        return 1
    return shape[0] if len(shape) == 4 else 1


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

"""The command `taesd-jax compare`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..errors import MediaFileError
from ..io.images import pad_image, psnr
from ..metrics import gmsd, sharpness, ssim
from .options import (
    IMAGES_HELP,
    LONGEST_HELP,
    MODEL_HELP,
    expand_images,
    load_vae,
    positive_integer,
    read_resized,
    say,
)
from .outputs import add_overwrite, check_outputs, file_name, write_json

# Equal images have an infinite PSNR; this keeps means finite.
_MAX_PSNR = 100.0
# Side of the window of SSIM.
_MIN_SIDE = 11


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax compare`."""
    add = parser.add_argument
    add("models", nargs="+", help=MODEL_HELP)
    add("--images", nargs="+", required=True, help=IMAGES_HELP)
    add("--side", type=positive_integer, default=640, help=LONGEST_HELP)
    text = "also write the figures as JSON"
    add("--json", type=file_name, metavar="FILE", help=text)
    add_overwrite(parser)


def run_compare(args: argparse.Namespace) -> int:
    """Compare models by PSNR, SSIM, GMSD and sharpness of their images."""
    paths = expand_images(args.images)
    check_outputs(args, [args.json], paths)
    models = {name: load_vae(name) for name in args.models}
    for vae in models.values():
        vae.check_loaded("encoder")
        vae.check_loaded("decoder")
    factor = max(vae.config.spatial_factor for vae in models.values())
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}  # by decoder and encoder
    for i, image in enumerate(read_resized(paths, args.side, max(factor, _MIN_SIDE)), 1):
        print(f"image {i} of {len(paths)}", file=sys.stderr)
        for pair, values in _measure(models, image).items():
            figures.setdefault(pair, []).append(values)
    if not figures:
        raise MediaFileError("none of the images can be read")
    rows: list[dict[str, Any]] = [
        {"decoder": decoder, "encoder": encoder}
        | {key: round(float(np.mean([v[key] for v in values])), 4) for key in values[0]}
        for (decoder, encoder), values in figures.items()
    ]
    width = max(map(len, args.models))
    say(f"{'decoder':{width}}  {'encoder':{width}}  PSNR, dB    SSIM     GMSD  sharpness")
    for row in rows:
        say(
            f"{row['decoder']:{width}}  {row['encoder']:{width}}  {row['psnr']:8.2f}  "
            f"{row['ssim']:6.4f}  {row['gmsd']:7.4f}  {row['sharpness']:9.3f}"
        )
    if args.json:
        write_json(args, args.json, {"images": [path.name for path in paths], "rows": rows})
    return 0


def _measure(
    models: dict[str, AutoencoderTiny], image: np.ndarray
) -> dict[tuple[str, str], dict[str, float]]:
    """Return the figures of an image for each pair of decoder and encoder."""
    h, w, _ = image.shape
    first = next(iter(models))
    figures: dict[tuple[str, str], dict[str, float]] = {}
    latents: dict[str, Any] = {}
    for name, vae in models.items():
        latents[name] = vae.encode(pad_image(image, vae.config.spatial_factor)[None]).latents
        encoders = [name]
        if name != first and vae.config.shares_latents(models[first].config):
            encoders.insert(0, first)
        for encoder in encoders:
            sample = vae.decode(latents[encoder]).sample[:, :h, :w].clip(-1, 1)
            pair = jnp.asarray(image[None]), sample
            figures[name, encoder] = {
                "psnr": min(psnr(image, np.asarray(sample[0])), _MAX_PSNR),
                "ssim": float(ssim(*pair)),
                "gmsd": float(gmsd(*pair)),
                "sharpness": float(sharpness(*pair)),
            }
    return figures

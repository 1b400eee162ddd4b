"""The command `taesd-jax compare`."""

from __future__ import annotations

import argparse
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..errors import MediaFileError
from ..io.images import pad_image, psnr
from ..metrics import gmsd, sharpness, ssim
from ..model.layers import COMPONENTS
from .options import expand_images, load_vae, read_resized
from .terminal import print_report, status_line

# Equal images have an infinite PSNR; this keeps means finite.
_MAX_PSNR = 100.0
# Side of the window of SSIM.
_MIN_SIDE = 11


def run_compare(args: argparse.Namespace) -> int:
    """Compare models by PSNR, SSIM, GMSD and sharpness of their images."""
    paths = expand_images(args.images)
    count = len(paths)
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}  # by decoder and encoder
    with status_line(args) as show:
        models: dict[str, AutoencoderTiny] = {}
        for name in args.models:
            show(f"loading {name}")
            models[name] = load_vae(name)
            for component in COMPONENTS:
                models[name].check_loaded(component)
        factor = max(vae.config.spatial_factor for vae in models.values())
        for i, image in enumerate(read_resized(paths, args.side, max(factor, _MIN_SIDE)), 1):
            show(f"image {i} of {len(paths)}")
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
    lines = [f"{'decoder':{width}}  {'encoder':{width}}  PSNR, dB    SSIM     GMSD  sharpness"]
    for row in rows:
        lines.append(
            f"{row['decoder']:{width}}  {row['encoder']:{width}}  {row['psnr']:8.2f}  "
            f"{row['ssim']:6.4f}  {row['gmsd']:7.4f}  {row['sharpness']:9.3f}"
        )
    print_report(args, {"images": [path.name for path in paths], "rows": rows}, lines)
    return int(len(paths) < count)


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

"""`taesd-jax compare`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..errors import PictureError
from ..io.files import write_files
from ..io.images import pad_image, psnr
from ..metrics import gmsd, sharpness, ssim
from .options import expand, load_vae, read_shrunk

Figures = dict[str, list[float]]


def run(args: argparse.Namespace) -> int:
    """Compare what models make of pictures: each alone, and from the first one's latents."""
    models = {name: load_vae(name) for name in args.models}
    for vae in models.values():
        vae.check_loaded("encoder")
        vae.check_loaded("decoder")
    pictures = expand(args.pictures)
    factor = max(vae.config.spatial_factor for vae in models.values())
    figures: dict[tuple[str, str], Figures] = {}
    for i, image in enumerate(read_shrunk(pictures, args.side, max(factor, 11)), 1):
        print(f"picture {i} of {len(pictures)}", file=sys.stderr)
        for row, found in _measure(models, image).items():
            for key, value in found.items():
                figures.setdefault(row, {}).setdefault(key, []).append(value)
    if not figures:
        raise PictureError("none of the pictures can be read")
    rows: list[dict[str, Any]] = [
        {"decoder": decoder, "encoder": encoder}
        | {key: round(float(np.mean(values)), 4) for key, values in found.items()}
        for (decoder, encoder), found in figures.items()
    ]
    wide = max(map(len, args.models))
    print(f"{'decoder':{wide}}  {'encoder':{wide}}  PSNR, dB    SSIM     GMSD  sharpness")
    for row in rows:
        print(
            f"{row['decoder']:{wide}}  {row['encoder']:{wide}}  {row['psnr']:8.2f}  "
            f"{row['ssim']:6.4f}  {row['gmsd']:7.4f}  {row['sharpness']:9.3f}"
        )
    if args.json:
        found = {"pictures": [path.name for path in pictures], "rows": rows}
        write_files({Path(args.json): json.dumps(found, indent=1).encode()})
    return 0


def _measure(
    models: dict[str, AutoencoderTiny], image: np.ndarray
) -> dict[tuple[str, str], dict[str, float]]:
    h, w, _ = image.shape
    first, found = next(iter(models)), {}
    latents: dict[str, Any] = {}
    for name, vae in models.items():
        latents[name] = vae.encode(pad_image(image, vae.config.spatial_factor)[None]).latents
        sources = [name]
        if name != first and vae.config.shares_latents(models[first].config):
            sources.insert(0, first)
        for source in sources:
            sample = vae.decode(latents[source]).sample[:, :h, :w].clip(-1, 1)
            pair = jnp.asarray(image[None]), sample
            found[name, source] = {
                "psnr": min(psnr(image, np.asarray(sample[0])), 100.0),  # a mean stays a number
                "ssim": float(ssim(*pair)),
                "gmsd": float(gmsd(*pair)),
                "sharpness": float(sharpness(*pair)),
            }
    return found

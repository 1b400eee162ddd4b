"""`taesd-jax fit-thumbnails`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import PictureError
from ..model.fitting import fit_thumbnails
from ..model.functional import Params
from ..model.thumbnails import thumbnail_name
from ..strategies.run import decode
from ..weights.thumbnail_files import check_entry, save_thumbnails
from .options import expand, load_checkpoint, read_shrunk, real


def run(args: argparse.Namespace) -> int:
    """Fit the thumbnails of a model and add them to a file of thumbnails."""
    held_out = expand(args.held_out)
    away = {real(path) for path in held_out}
    pictures = [path for path in expand(args.pictures) if real(path) not in away]
    if not pictures:
        raise PictureError("every picture is held out; name others to fit to")
    params, config, _ = load_checkpoint(args.model)
    AutoencoderTiny(params, config).check_loaded("encoder")
    AutoencoderTiny(params, config).check_loaded("decoder")
    params = jax.tree.map(jnp.asarray, params)
    name = args.name or config.variant or Path(args.model).stem.replace(".", "-")
    check_entry(args.output, params, name)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)

    def progress(line: str) -> None:
        print(f"{name}: {line} of {len(pictures)} and {len(held_out)}", file=sys.stderr)

    images = [
        read_shrunk(paths, args.side, config.spatial_factor) for paths in (pictures, held_out)
    ]
    params["thumbnails"], psnr = fit_thumbnails(params, *images, config=config, progress=progress)
    work = _shares(params, list(psnr), config)
    notes = {
        "psnr": {thumbnail_name(s): round(float(np.mean(v)), 2) for s, v in psnr.items() if v},
        "photographs": [path.name for path in pictures],
        "held_out": [path.name for path in held_out],
        "longest_side": args.side,
        "date": date.today().isoformat(),
    }
    save_thumbnails(args.output, params, name=name, notes=notes)
    for scale, values in psnr.items():
        line = f"{name} 1/{thumbnail_name(scale)}: {work[scale]:.1%} of the operations"
        if values:
            line += f", {np.mean(values):.1f} dB ({min(values):.1f} to {max(values):.1f})"
        print(line)
    return 0


def _shares(
    params: Params, scales: list[float], config: AutoencoderTinyConfig
) -> dict[float, float]:
    """Return the share of a whole decode's operations that each scale takes, by XLA's count."""
    latent = jax.ShapeDtypeStruct((1, 64, 64, config.latent_channels), jnp.float32)

    def flops(call: Callable[[Params, Any], jax.Array]) -> float:
        # Before compiling: afterwards a GPU's convolutions are calls of a library, without counts.
        counts = jax.jit(call).lower(params, latent).cost_analysis()
        return counts["flops"] if counts else float("nan")

    whole = flops(lambda p, z: decode(p, z, config=config))
    return {
        s: flops(lambda p, z, s=s: decode(p, z, config=config, scale=s)) / whole for s in scales
    }

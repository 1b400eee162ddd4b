"""The command `taesd-jax fit-thumbnails`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError
from ..model.fitting import fit_thumbnails
from ..model.functional import Params
from ..model.thumbnails import thumbnail_name
from ..strategies.run import decode
from ..weights.thumbnail_files import check_entry, save_thumbnails
from .options import expand_images, load_checkpoint, read_resized
from .outputs import check_not_inputs
from .terminal import say, status_line


def run_fit_thumbnails(args: argparse.Namespace) -> int:
    """Fit the heads that make thumbnails, see decode --scale, and add them to a file."""
    held_out = expand_images(args.held_out)
    excluded = {os.path.realpath(path) for path in held_out}
    paths = [p for p in expand_images(args.images) if os.path.realpath(p) not in excluded]
    if not paths:
        raise MediaFileError("every image is held out; name others to fit to")
    check_not_inputs(args, [Path(args.output)], [*paths, *held_out])
    params, config, _ = load_checkpoint(args.model)
    AutoencoderTiny(params, config).check_loaded("encoder")
    AutoencoderTiny(params, config).check_loaded("decoder")
    params = jax.tree.map(jnp.asarray, params)
    name = args.name or config.variant or Path(args.model).stem.replace(".", "-")
    check_entry(args.output, params, name)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    images = [read_resized(p, args.side, config.spatial_factor) for p in (paths, held_out)]
    with status_line(args) as show:

        def progress(line: str) -> None:
            show(f"{name}: {line} of {len(paths)} and {len(held_out)}")

        heads, psnr = fit_thumbnails(params, *images, config=config, progress=progress)
    params["thumbnails"] = heads
    shares = _cost_shares(params, list(psnr), config)
    notes = {
        "psnr": {thumbnail_name(s): round(float(np.mean(v)), 2) for s, v in psnr.items() if v},
        "photographs": [path.name for path in paths],
        "held_out": [path.name for path in held_out],
        "longest_side": args.side,
        "date": date.today().isoformat(),
    }
    save_thumbnails(args.output, params, name=name, notes=notes)
    for scale, values in psnr.items():
        line = f"{name} 1/{thumbnail_name(scale)}: {shares[scale]:.1%} of the operations"
        if values:
            line += f", {np.mean(values):.1f} dB ({min(values):.1f} to {max(values):.1f})"
        say(line)
    return 0


def _cost_shares(
    params: Params, scales: list[float], config: AutoencoderTinyConfig
) -> dict[float, float]:
    """Return the operations of each scale as a fraction of a full decode, by XLA's count."""
    latent = jax.ShapeDtypeStruct((1, 64, 64, config.latent_channels), jnp.float32)

    def flops(call: Callable[[Params, Any], jax.Array]) -> float:
        # Counted before compilation, which turns a GPU's convolutions into uncounted library calls.
        counts = jax.jit(call).lower(params, latent).cost_analysis()
        return counts["flops"] if counts else float("nan")

    full = flops(lambda p, z: decode(p, z, config=config))
    return {s: flops(lambda p, z, s=s: decode(p, z, config=config, scale=s)) / full for s in scales}

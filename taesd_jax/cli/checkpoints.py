"""The commands `taesd-jax info`, `convert` and `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import weights
from ..errors import CheckpointError, UsageError
from ..model.layers import COMPONENTS, Params
from ..video.checkpoints import load_video
from ..weights.files import CONFIG_FILE, DIFFUSERS_FILE
from ..weights.sources import PICKLES, SMALL, find_files, find_local, pair_file
from .options import convert_package, load_checkpoint, video_variants
from .outputs import check_outputs
from .terminal import print_report, say, status_line


def run_info(args: argparse.Namespace) -> int:
    """Show what a checkpoint holds."""
    with status_line(args) as show:
        show(f"loading {args.model}")
        names = video_variants(args.model)
        report, lines = (
            _describe(args.model) if names is None else _describe_video(args.model, names)
        )
    print_report(args, report, lines)
    return 0


def _describe(model: str) -> tuple[dict[str, Any], list[str]]:
    source = find_local(model) or find_files(model, subfolder="")
    params, config, stored_format = load_checkpoint(model)
    files, components = [str(path) for path in source.weights], _summaries(params)
    same = config.same_architecture
    unpublished = "small, of this package" if model == SMALL else "not a published one"
    report = {"variant": config.variant, "same_architecture": same, "format": stored_format}
    report |= {"files": files, "spatial_factor": config.spatial_factor, "components": components}
    lines = [
        f"variant         {config.variant or ' or '.join(same) or unpublished}",
        f"format          {stored_format}",
        f"files           {', '.join(files)}",
        f"latent          {config.latent_channels} channels, 1/{config.spatial_factor} size",
    ]
    for component, part in components.items():
        widths = getattr(config, f"{component}_block_out_channels")
        blocks = getattr(config, f"num_{component}_blocks")
        lines.append(f"{component:<16}{part['parameters']:,} parameters, {part['dtype']}")
        lines.append(f"{'':<16}widths {_join(widths)}, blocks {_join(blocks)}")
    if config.pool_channels:
        lines.append(
            f"GroupNorm       {config.pool_channels} channels in the blocks at latent resolution"
        )
    for component in COMPONENTS:
        if component not in params:
            missing = weights.missing_file(config.name_or_path, component)
            lines.append(f"{component:<16}absent; {missing}")
    return report | {"config": config.to_dict()}, lines


def _describe_video(model: str, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    try:
        params, config = load_video(model)
    except CheckpointError:  # it may be one of several
        params, config = load_video(model, variant=names[0])
    components = _summaries(params)
    report = {"video_variants": names, "files": [model], "components": components}
    report["spatial_factor"] = config.spatial_factor
    lines = [
        f"video variant   {' or '.join(names) or 'not a published one'}",
        f"files           {model}",
        f"latent          {config.latent_channels} channels, 1/{config.spatial_factor} size",
    ]
    lines += [
        f"{component:<16}{part['parameters']:,} parameters, {part['dtype']}"
        for component, part in components.items()
    ]
    return report | {"config": config.to_dict()}, lines


def _summaries(params: Params) -> dict[str, dict[str, Any]]:
    """Return the number of parameters and the dtypes of each component."""
    summaries: dict[str, dict[str, Any]] = {}
    for component, tree in params.items():
        leaves = jax.tree.leaves(tree)
        summaries[component] = {
            "parameters": sum(leaf.size for leaf in leaves),
            "dtype": ", ".join(sorted({leaf.dtype.name for leaf in leaves})),
        }
    return summaries


def run_convert(args: argparse.Namespace) -> int:
    """Convert a checkpoint to another format."""
    suffix = Path(args.target).suffix.lower()
    target_format = args.to or ("flax" if suffix == ".safetensors" else "diffusers")
    if target_format in ("flax", "comfyui") and suffix != ".safetensors":
        raise UsageError(
            f"format {target_format!r} is one file: let {args.target} end .safetensors"
        )
    if target_format not in ("flax", "comfyui") and suffix in (".safetensors", *PICKLES):
        target = (
            "a folder" if target_format == "diffusers" else "PATH for PATH_encoder and PATH_decoder"
        )
        hint = (
            "; for .pth files add --to pth" if target_format == "diffusers" and suffix != "" else ""
        )
        raise UsageError(
            f"format {target_format!r} takes {target}: name {args.target} without {suffix}{hint}"
        )
    if not args.overwrite:
        check_outputs(args, _target_files(Path(args.target), target_format))
    params, config, stored_format = load_checkpoint(args.model)
    if args.variant:
        if args.variant not in config.same_architecture:
            raise CheckpointError(f"{args.model} does not have the architecture of {args.variant}")
        config = config.with_variant(args.variant)
    if args.dtype:
        with np.errstate(over="ignore"):  # infinities are refused on writing
            params = jax.tree.map(lambda p: p.astype(np.dtype(args.dtype)), params)
    if target_format == "pth":
        written = convert_package().save_pth(args.target, params, config)
    else:
        written = weights.save(args.target, params, config, format=target_format)
    for path in written:
        say(f"{path}: {target_format} from {stored_format} names, {path.stat().st_size:,} bytes")
    return 0


def _target_files(path: Path, target_format: str) -> list[Path]:
    """Return the files that a conversion may write."""
    if target_format == "diffusers":
        return [path / DIFFUSERS_FILE, path / CONFIG_FILE]
    if target_format in ("original", "pth"):
        suffix = ".pth" if target_format == "pth" else ".safetensors"
        return [pair_file(path, component, suffix) for component in COMPONENTS]
    return [path]


def run_verify(args: argparse.Namespace) -> int:
    """Compare with PyTorch layer by layer; exit status 1 if an error is too large."""
    with status_line(args) as show:
        show(f"loading {args.model} and PyTorch")
        params, config, _ = load_checkpoint(args.model)
        parity_report = convert_package().parity_report
        report = parity_report(params, config, image=args.image, seed=args.seed, progress=show)
    print_report(args, report.to_dict(), report.table(layers=args.layers).splitlines())
    return 0 if report.ok else 1


def _join(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))

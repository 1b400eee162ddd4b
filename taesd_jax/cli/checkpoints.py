"""The commands `taesd-jax info`, `convert` and `verify`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from .. import weights
from ..config import VARIANTS
from ..errors import CheckpointError, UsageError
from ..model.layers import COMPONENTS
from ..weights.files import CONFIG_FILE, DIFFUSERS_FILE
from ..weights.sources import PICKLES, find_files, find_local, pair_file
from .options import MODEL_HELP, convert_package, load_checkpoint, say
from .outputs import add_overwrite, check_outputs, file_name, write_json

_TORCH_MODEL_HELP = f"{MODEL_HELP}; with torch also .pth"


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax info`."""
    parser.add_argument("model", help=_TORCH_MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_info(args: argparse.Namespace) -> int:
    """Show what a checkpoint holds."""
    source = find_local(args.model) or find_files(args.model, subfolder="")
    params, config, stored_format = load_checkpoint(args.model)
    files, components = [str(path) for path in source.weights], {}
    for component, tree in params.items():
        leaves = jax.tree.leaves(tree)
        components[component] = {
            "parameters": sum(leaf.size for leaf in leaves),
            "dtype": ", ".join(sorted({leaf.dtype.name for leaf in leaves})),
        }
    same = config.same_architecture
    report = {"variant": config.variant, "same_architecture": same, "format": stored_format}
    report["files"] = files
    report |= {"spatial_factor": config.spatial_factor, "components": components}
    if args.json:
        print(json.dumps(report | {"config": config.to_dict()}, indent=2))
        return 0
    say(f"variant         {config.variant or ' or '.join(same) or 'not a published one'}")
    print(f"format          {stored_format}")
    say(f"files           {', '.join(files)}")
    print(f"latent          {config.latent_channels} channels, 1/{config.spatial_factor} size")
    for component, part in components.items():
        widths = getattr(config, f"{component}_block_out_channels")
        blocks = getattr(config, f"num_{component}_blocks")
        print(f"{component:<16}{part['parameters']:,} parameters, {part['dtype']}")
        print(f"{'':<16}widths {_join(widths)}, blocks {_join(blocks)}")
    if config.pool_channels:
        print(f"GroupNorm       {config.pool_channels} channels in the blocks at latent resolution")
    for component in ("encoder", "decoder"):
        if component not in params:
            say(f"{component:<16}absent; {weights.missing_file(config.name_or_path, component)}")
    return 0


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax convert`."""
    add = parser.add_argument
    add("model", help=_TORCH_MODEL_HELP)
    add("target", type=file_name, help="file, folder (diffusers) or PATH (original, pth)")
    add(
        "--to",
        choices=("diffusers", "original", "comfyui", "flax", "pth"),
        help="format (default: flax for a .safetensors target, else diffusers)",
    )
    add("--variant", choices=tuple(VARIANTS), help="name of the variant, of equal architecture")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="dtype of the stored tensors")
    text = "replace existing files; a model may then be converted in place"
    add("--overwrite", action="store_true", help=text)


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


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax verify`."""
    add = parser.add_argument
    add("model", help=_TORCH_MODEL_HELP)
    add("--image", metavar="FILE", help="image to encode (default: a synthetic one)")
    add("--seed", type=int, default=0, help="seed of the synthetic image (default: %(default)s)")
    add(
        "--layers",
        action="store_true",
        help="list every layer, not only those that are too far off",
    )
    text = "also write the report as JSON"
    add("--json", type=file_name, metavar="FILE", help=text)
    add_overwrite(parser)


def run_verify(args: argparse.Namespace) -> int:
    """Compare with PyTorch layer by layer; exit status 1 if an error is too large."""
    check_outputs(args, [args.json])
    params, config, _ = load_checkpoint(args.model)
    report = convert_package().parity_report(params, config, image=args.image, seed=args.seed)
    if args.json:
        write_json(args, args.json, report.to_dict())
    print(report.table(layers=args.layers))
    return 0 if report.ok else 1


def _join(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))

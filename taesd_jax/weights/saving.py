"""Saves checkpoints in every published format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from flax.traverse_util import flatten_dict

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..io.files import write_files
from ..model.layers import COMPONENTS, Component, Params, build_layers
from . import names
from .files import CONFIG_FILE, DIFFUSERS_FILE, DTYPES, MODEL, digest_tree, to_bytes
from .names import KeyFormat

Format = Literal["diffusers", "original", "comfyui", "flax"]


def save(
    path: str | os.PathLike[str],
    params: Params,
    config: AutoencoderTinyConfig,
    *,
    format: Format = "diffusers",
) -> list[Path]:
    """Write a checkpoint; existing files are replaced atomically.

    Args:
        path: For "diffusers" the folder of config.json and diffusion_pytorch_model.safetensors;
            for "original" PATH of PATH_encoder.safetensors and PATH_decoder.safetensors; for
            "comfyui" and "flax" the file.
        params: {"encoder": ..., "decoder": ...}; "original" and "flax" also take one component.
            Thumbnails are not written, see `save_thumbnails` and `add_thumbnails`.
        config: Architecture; all formats but "diffusers", which has config.json, carry it as
            metadata.
        format: As above.

    Returns:
        The files written.

    Raises:
        CheckpointError: The format cannot express this model, or its params do not fit config or
            are not finite.
        ValueError: There is no such format.
    """
    path = Path(path)
    _check_name(path, format)
    serialised = serialise(params, config, format=format)
    metadata = {"format": "flax" if format == "flax" else "pt"}
    if format != "diffusers":
        metadata["config"] = json.dumps(config.to_dict())
    if len(serialised) > 1:
        metadata[MODEL] = digest_tree(serialised)
    contents: dict[Path, bytes] = {}
    for suffix, tensors in serialised.items():
        file = path / suffix if format == "diffusers" else path.with_name(path.name + suffix)
        contents[file] = to_bytes(tensors, metadata)
    if format == "diffusers":
        contents[path / CONFIG_FILE] = _diffusers_json(config).encode()
    write_files(contents)
    return list(contents)


def _check_name(path: Path, format: str) -> None:
    if format not in (allowed := get_args(Format)):
        raise ValueError(f"format must be one of {', '.join(allowed)}, got {format!r}")
    if format != "diffusers" and not path.name:
        raise CheckpointError(f"format {format!r} needs the name of a file, got {str(path)!r}")
    if format != "diffusers" and f"{path.name}.".startswith(f"{Path(DIFFUSERS_FILE).stem}."):
        raise CheckpointError(
            f"{path}: diffusers would read a file of this name as its own: name another file for "
            f"format {format!r}"
        )


def serialise(
    params: Params, config: AutoencoderTinyConfig, *, format: Format | KeyFormat
) -> dict[str, dict[str, np.ndarray]]:
    """Return the tensors of each file of a format, by the file's name or suffix.

    Raises:
        CheckpointError: The format cannot express this model.
    """
    components: list[Component] = [component for component in COMPONENTS if component in params]
    if not components:
        raise CheckpointError(f"params must have 'encoder' or 'decoder', got {sorted(params)}")
    if format == "diffusers" and not config.fits_diffusers:
        raise CheckpointError(
            f"{config.variant or 'this model'} has {config.beyond_diffusers}, which diffusers' "
            f"AutoencoderTiny cannot express; write format (--to) 'original', 'comfyui' or 'flax'"
        )
    if format in ("diffusers", "comfyui") and len(components) == 1:
        raise CheckpointError(
            f"format {format!r} needs both components, but only the {components[0]} is loaded; "
            f"write 'original' or 'flax'"
        )
    tensors: dict[str, dict[str, np.ndarray]] = {component: {} for component in components}
    for (component, key), leaf in _leaves(params, components, config).items():
        stored = leaf if format == "flax" else names.to_torch(leaf)
        tensors[component][names.file_name(key, component, format)] = stored
    if format == "original":
        return {f"_{component}.safetensors": part for component, part in tensors.items()}
    merged = {name: t for part in tensors.values() for name, t in part.items()}
    if format == "comfyui":
        merged |= _comfyui_scalars(config)
    return {DIFFUSERS_FILE if format == "diffusers" else "": merged}


def _leaves(
    params: Params, components: list[Component], config: AutoencoderTinyConfig
) -> dict[tuple[Component, str], np.ndarray]:
    """Return arrays by component and published key; raise CheckpointError unless they fit."""
    stored = {name: part for name, part in params.items() if name != "thumbnails"}
    arrays = {name: _native(leaf) for name, leaf in flatten_dict(stored, sep=".").items()}
    expected: dict[str, names.Shape] = {}
    keys: dict[tuple[Component, str], str] = {}
    for component in components:
        for key, shape in names.tensor_shapes(build_layers(component, config)).items():
            keys[component, key] = name = names.flax_name(key, component)
            expected[name] = shape
    got = {name: names.to_torch_shape(array.shape) for name, array in arrays.items()}
    if lines := [
        f"  {name}: expected {expected.get(name, 'nothing')}, got {got.get(name, 'nothing')}"
        for name in expected | got
        if expected.get(name) != got.get(name)
    ]:
        raise CheckpointError(
            "the params do not fit the config (PyTorch shapes):\n" + "\n".join(lines)
        )
    if unfit := [name for name in expected if not _is_storable(arrays[name])]:
        raise CheckpointError(
            f"params must be finite and of {', '.join(DTYPES.values())}, got others in "
            f"{', '.join(unfit)}"
        )
    return {key: arrays[name] for key, name in keys.items()}


def _native(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)  # safetensors writes the bytes as they are
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_storable(array: np.ndarray) -> bool:
    return array.dtype.name in DTYPES.values() and bool(np.isfinite(array.astype("f4")).all())


def _comfyui_scalars(config: AutoencoderTinyConfig) -> dict[str, np.ndarray]:
    scale, shift = config.raw_latent_scale, config.raw_latent_shift
    if scale is None and len(variants := config.same_architecture) > 1:
        raise CheckpointError(
            f"ComfyUI's file carries the raw latent scale, which differs between "
            f"{' and '.join(variants)}; choose one with config.with_variant(...) or --variant"
        )
    scalars = {"vae_scale": 1.0 if scale is None else scale, "vae_shift": shift or 0.0}
    return {name: np.asarray(value, np.float32) for name, value in scalars.items()}


def _diffusers_json(config: AutoencoderTinyConfig) -> str:
    fields = config.to_dict()
    for unknown in ("encoder_stem_channels", "pool_channels", "width_change"):
        del fields[unknown]
    raw = {f"_{name}": fields.pop(name) for name in ("raw_latent_scale", "raw_latent_shift")}
    if float(fields["latent_magnitude"]).is_integer():
        fields["latent_magnitude"] = int(fields["latent_magnitude"])
    fields |= {"_class_name": "AutoencoderTiny", "_diffusers_version": "0.39.0"}
    if config.variant:
        fields["_name_or_path"] = config.variant
    elif config.raw_latent_scale is not None:
        fields |= raw  # diffusers ignores names that begin with "_"
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"

"""Saving of whole checkpoints in every published layout."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..io.files import write_files
from ..model.layers import COMPONENTS, Component, layers_of
from . import names, sources
from .files import DTYPES, to_bytes
from .names import Scheme

Layout = Literal["diffusers", "original", "comfyui", "flax"]
Params = dict[str, Any]


def save(
    path: str | os.PathLike[str],
    params: Params,
    config: AutoencoderTinyConfig,
    *,
    layout: Layout = "diffusers",
) -> list[Path]:
    """Write a checkpoint; an existing one stays whole until the new one is on disk.

    Args:
        path: By layout: "diffusers" the folder for config.json and
            diffusion_pytorch_model.safetensors; "original" PATH for PATH_encoder.safetensors and
            PATH_decoder.safetensors; "comfyui" and "flax" the file.
        params: {"encoder": ..., "decoder": ...}; only "original" and "flax" take one alone.
            Heads are not written: `save_heads` does, and `add_heads` finds them.
        config: Architecture.
        layout: As above. All but "diffusers", which has config.json, carry the config as metadata.

    Returns:
        The files written.

    Raises:
        CheckpointError: The layout cannot express this model, or its params do not fit config or
            are not finite.
        ValueError: There is no such layout.
    """
    if layout not in (allowed := get_args(Layout)):
        raise ValueError(f"layout must be one of {', '.join(allowed)}, got {layout!r}")
    path = Path(path)
    if layout != "diffusers" and not path.name:
        raise CheckpointError(f"layout {layout!r} needs the name of a file, got {str(path)!r}")
    written: dict[Path, bytes] = {}
    for suffix, tensors in serialise(params, config, layout=layout).items():
        metadata = {"format": "flax" if layout == "flax" else "pt"}
        if layout != "diffusers":
            metadata["config"] = json.dumps(config.to_dict())
        target = path / suffix if layout == "diffusers" else path.with_name(path.name + suffix)
        written[target] = to_bytes(tensors, metadata)
    if layout == "diffusers":
        written[path / sources.CONFIG_FILE] = _diffusers_json(config).encode()
    write_files(written)
    return list(written)


def serialise(
    params: Params, config: AutoencoderTinyConfig, *, layout: Layout | Scheme
) -> dict[str, dict[str, np.ndarray]]:
    """Return the tensors of each file of a layout, by the file's name or suffix.

    Raises:
        CheckpointError: The layout cannot express this model.
    """
    components: list[Component] = [component for component in COMPONENTS if component in params]
    if not components:
        raise CheckpointError(f"params must have 'encoder' or 'decoder', got {sorted(params)}")
    if layout == "diffusers" and not config.fits_diffusers:
        raise CheckpointError(
            f"diffusers' AutoencoderTiny cannot express {config.variant or 'this model'} "
            f"(GroupNorm branch, 32x stem or widths that differ by stage); write layout "
            f"'original', 'comfyui' or 'flax'"
        )
    if layout in ("diffusers", "comfyui") and len(components) == 1:
        raise CheckpointError(
            f"layout {layout!r} needs both components, but only the {components[0]} is loaded; "
            f"write 'original' or 'flax'"
        )
    scheme: Scheme = layout
    _check(params, components, config)
    tensors = {
        component: _by_name(params[component], component, config, scheme)
        for component in components
    }
    if layout == "original":
        return {f"_{component}.safetensors": tensors[component] for component in components}
    merged = {name: t for component in components for name, t in tensors[component].items()}
    if layout == "comfyui":
        merged |= _comfyui_scalars(config)
    return {sources.DIFFUSERS_FILE if layout == "diffusers" else "": merged}


def _check(params: Params, components: list[Component], config: AutoencoderTinyConfig) -> None:
    lines = [
        f"  {component}: unexpected"
        for component in params
        if component not in (*components, "heads")
    ]
    unfit = []
    for component in components:
        leaves = dict(_walk(params[component]))
        got = {path: names.to_torch_shape(np.shape(leaf)) for path, leaf in leaves.items()}
        unfit += [
            f"{component}.{'.'.join(path)}" for path, leaf in leaves.items() if not _fits(leaf)
        ]
        want = {
            names.flax_path(key): shape
            for key, shape in names.tensor_shapes(layers_of(component, config)).items()
        }
        for path in want | got:
            if got.get(path) != want.get(path):
                expected = want.get(path, "nothing")
                name = ".".join((component, *path))
                lines.append(f"  {name}: expected {expected}, got {got.get(path, 'nothing')}")
    if lines:
        raise CheckpointError(
            "the params do not fit the config (PyTorch shapes):\n" + "\n".join(lines)
        )
    if unfit:
        allowed = ", ".join(DTYPES.values())
        raise CheckpointError(
            f"params must be finite and of {allowed}, or no reader takes them: {', '.join(unfit)}"
        )


def _fits(leaf: Any) -> bool:
    array = np.asarray(leaf)
    return array.dtype.name in DTYPES.values() and bool(np.isfinite(array.astype("f4")).all())


def _walk(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for word, branch in tree.items():
        yield from _walk(branch, (*path, word))


def _by_name(
    component_params: Params, component: Component, config: AutoencoderTinyConfig, scheme: Scheme
) -> dict[str, np.ndarray]:
    tensors, leaves = {}, dict(_walk(component_params))
    for key in names.tensor_shapes(layers_of(component, config)):
        array = np.asarray(leaves[names.flax_path(key)])
        name = names.file_name(key, component, scheme)
        tensors[name] = array if scheme == "flax" else names.to_torch(array)
    return tensors


def _comfyui_scalars(config: AutoencoderTinyConfig) -> dict[str, np.ndarray]:
    scale, shift = config.raw_latent_scale, config.raw_latent_shift
    if scale is None and len(likely := config.same_architecture) > 1:
        raise CheckpointError(
            f"ComfyUI's file carries the raw latent scale, which depends on the variant, and "
            f"nothing says whether this is {' or '.join(likely)}; name it with "
            f"config.labelled(...) or --variant"
        )
    scalars = {"vae_scale": 1.0 if scale is None else scale, "vae_shift": shift or 0.0}
    return {name: np.asarray(value, np.float32) for name, value in scalars.items()}


def _diffusers_json(config: AutoencoderTinyConfig) -> str:
    fields = config.to_dict()
    for ours in ("encoder_stem_channels", "pool_channels", "width_change"):
        del fields[ours]
    raw = {f"_{name}": fields.pop(name) for name in ("raw_latent_scale", "raw_latent_shift")}
    if float(fields["latent_magnitude"]).is_integer():
        fields["latent_magnitude"] = int(fields["latent_magnitude"])
    fields |= {"_class_name": "AutoencoderTiny", "_diffusers_version": "0.39.0"}
    if config.variant:
        fields["_name_or_path"] = config.variant
    elif config.raw_latent_scale is not None:
        fields |= raw  # diffusers leaves out names that begin with "_"
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"

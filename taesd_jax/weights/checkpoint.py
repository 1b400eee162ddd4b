"""Strict loading and saving of whole checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import CheckpointError
from ..layers import HALVES, Half, layers_of
from ..storage import write_files
from . import files, names, sources
from .names import Scheme, Shape
from .recognition import difference, recognise

Layout = Literal["diffusers", "original", "comfyui", "flax"]
Params = dict[str, Any]


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        params: {"encoder": ..., "decoder": ...}, numpy arrays in the stored dtype; one half may
            be absent.
        config: Its architecture and labels.
        scheme: The key scheme that it was stored in.
    """

    params: Params
    config: AutoencoderTinyConfig
    scheme: Scheme


class Part(NamedTuple):
    """Tensors that are read only after their names and shapes were found right."""

    origin: str
    shapes: Mapping[str, Shape]
    read: Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def load(
    source: str | os.PathLike[str],
    *,
    subfolder: str = "",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Checkpoint:
    """Load a checkpoint as numpy arrays, in its stored dtype.

    The architecture is read from names and shapes, never from a file's name; that only tells taesd
    from taesdxl, and taesd3 from taef1, which have equal shapes. Names may follow the original,
    diffusers', ComfyUI's or our Flax scheme.

    Args:
        source: A safetensors file; `PATH` for `PATH_encoder.safetensors` and
            `PATH_decoder.safetensors`, of which one may be absent; a folder; a hub id
            "owner/name"; or a variant's name such as "taesd". What is on disk comes first.
        subfolder: Folder inside the folder or hub repository.
        revision: Branch, tag or commit of a hub repository.
        cache_dir: Where hub files are kept.
        local_files_only: Use only hub files that are already in the cache.
        token: Hub access token.

    Raises:
        CheckpointNotFoundError: There is nothing under that name.
        CheckpointError: What is there is not a model of this family; lists every tensor that is
            missing, unexpected or mis-shaped.
    """
    found = sources.find_files(
        source,
        subfolder=subfolder,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )
    parts, fields = [], {}
    for path in found.weights:
        header = files.read_header(path)
        parts.append(Part(str(path), header.shapes, lambda n, p=path: files.read_tensors(p, n)))
        if "config" in header.metadata:
            fields = _parse(header.metadata["config"], path)
    if found.config:
        fields = files.read_json(found.config)
    return assemble(parts, fields=fields, label=found.label, origin=os.fspath(source))


def assemble(
    parts: Sequence[Part], *, fields: Mapping[str, Any], label: str, origin: str
) -> Checkpoint:
    """Build a checkpoint from tensors by name.

    Args:
        parts: The tensors of one file each.
        fields: Content of a config.json, or {}.
        label: A variant's name, or "".
        origin: Where the tensors come from, for messages.

    Raises:
        CheckpointError: As `load`.
    """
    shapes: dict[Half, dict[str, Shape]] = {}
    where: dict[Half, tuple[Part, dict[str, str]]] = {}
    scalars: dict[str, float] = {}
    scheme: Scheme = "original"
    try:
        for part in parts:
            scheme, halves, extra = names.split(part.shapes)
            for half, keys in halves.items():
                if half in shapes:
                    raise CheckpointError(f"two {half}s: {where[half][0].origin}, {part.origin}")
                to_shape = names.to_torch_shape if scheme == "flax" else tuple
                shapes[half] = {k: to_shape(part.shapes[n]) for k, n in keys.items()}
                where[half] = part, keys
            scalars |= _read_scalars(part, extra)
        config = _with_fields(recognise(shapes), fields, shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    params: Params = {}
    for half, (part, keys) in where.items():
        tensors = part.read(list(keys.values()))
        params[half] = {}
        for key, name in keys.items():
            tensor = tensors[name] if scheme == "flax" else names.to_flax(tensors[name])
            _set(params[half], names.flax_path(key, tensor.ndim), tensor)
    _check_finite(params, origin)
    labels: dict[str, Any] = {"name_or_path": origin}
    if scalars:
        labels["raw_latent_scale"] = scalars.get("vae_scale", 1.0)
        labels["raw_latent_shift"] = scalars.get("vae_shift", 0.0)
    return Checkpoint(params, _labelled(config, label).replace(**labels), scheme)


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
        params: {"encoder": ..., "decoder": ...}; only "original" and "flax" take one half alone.
        config: Architecture.
        layout: As above. All but "diffusers", which has config.json, carry the config as metadata.

    Returns:
        The files written.

    Raises:
        CheckpointError: The layout cannot express this model.
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    written: dict[Path, bytes] = {}
    for suffix, tensors in serialise(params, config, layout=layout).items():
        metadata = {"format": "flax" if layout == "flax" else "pt"}
        if layout != "diffusers":
            metadata["config"] = json.dumps(config.to_dict())
        target = path / suffix if layout == "diffusers" else path.with_name(path.name + suffix)
        written[target] = to_bytes(tensors, metadata=metadata)
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
    halves: list[Half] = [half for half in HALVES if half in params]
    if not halves:
        raise CheckpointError(f"params must have 'encoder' or 'decoder', got {sorted(params)}")
    if layout == "diffusers" and not config.fits_diffusers:
        raise CheckpointError(
            f"diffusers' AutoencoderTiny cannot express {config.variant or 'this model'} "
            f"(GroupNorm branch, 32x stem or widths that differ by stage); write layout "
            f"'original', 'comfyui' or 'flax'"
        )
    if layout in ("diffusers", "comfyui") and len(halves) == 1:
        raise CheckpointError(
            f"layout {layout!r} needs both halves, but only the {halves[0]} is loaded; write "
            f"'original' or 'flax'"
        )
    scheme: Scheme = layout
    tensors = {half: _by_name(params[half], half, config, scheme) for half in halves}
    if layout == "original":
        return {f"_{half}.safetensors": tensors[half] for half in halves}
    merged = {name: t for half in halves for name, t in tensors[half].items()}
    if layout == "comfyui":
        merged |= _comfyui_scalars(config)
    return {sources.DIFFUSERS_FILE if layout == "diffusers" else "": merged}


def missing_file(source: str, half: Half) -> str:
    """Say which file would bring the half that `source` lacks."""
    other = "decoder" if half == "encoder" else "encoder"
    if source.endswith(f"_{other}.safetensors"):
        stem = source.removesuffix(f"_{other}.safetensors")
        return f"load {stem!r}, which needs {stem}_{half}.safetensors beside that file"
    if source and not source.endswith(".safetensors"):
        return f"add the missing file {source}_{half}.safetensors"
    return f"load a checkpoint with {half} tensors"


def _by_name(
    half_params: Params, half: Half, config: AutoencoderTinyConfig, scheme: Scheme
) -> dict[str, np.ndarray]:
    tensors, wrong = {}, []
    for key, shape in names.tensor_shapes(layers_of(half, config)).items():
        tensor = half_params
        for word in names.flax_path(key, len(shape)):
            tensor = tensor.get(word, {}) if isinstance(tensor, Mapping) else {}
        array = None if isinstance(tensor, Mapping) else np.asarray(tensor)
        if array is None or names.to_torch_shape(array.shape) != shape:
            wrong.append(f"{half} {key} of shape {shape}")
        else:
            tensors[names.file_name(key, half, scheme)] = (
                array if scheme == "flax" else names.to_torch(array)
            )
    if wrong:
        raise CheckpointError(f"params do not fit the config; expected {'; '.join(wrong)}")
    return tensors


def _comfyui_scalars(config: AutoencoderTinyConfig) -> dict[str, np.ndarray]:
    scale, shift = config.raw_latent_scale, config.raw_latent_shift
    if scale is None and config.latent_channels in (4, 16) and config.spatial_factor == 8:
        raise CheckpointError(
            "ComfyUI's file carries the raw latent scale, which depends on the variant, and "
            "nothing says whether this is "
            + ("taesd or taesdxl" if config.latent_channels == 4 else "taesd3 or taef1")
            + "; name it with config.labelled(...) or --variant"
        )
    scalars = {"vae_scale": 1.0 if scale is None else scale, "vae_shift": shift or 0.0}
    return {name: np.asarray(value, np.float32) for name, value in scalars.items()}


def _diffusers_json(config: AutoencoderTinyConfig) -> str:
    fields = config.to_dict()
    for ours in ("encoder_stem_channels", "pool_channels", "width_change"):
        del fields[ours]
    del fields["raw_latent_scale"], fields["raw_latent_shift"]
    if float(fields["latent_magnitude"]).is_integer():
        fields["latent_magnitude"] = int(fields["latent_magnitude"])
    fields |= {"_class_name": "AutoencoderTiny", "_diffusers_version": "0.39.0"}
    if config.variant:
        fields["_name_or_path"] = config.variant
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def _with_fields(
    config: AutoencoderTinyConfig, fields: Mapping[str, Any], shapes: Mapping[Half, Any]
) -> AutoencoderTinyConfig:
    if not fields:
        return config
    try:
        stated = AutoencoderTinyConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config: {error}") from error
    if lines := difference(shapes, stated):
        raise CheckpointError("the config does not describe the tensors:\n" + "\n".join(lines))
    return _labelled(stated, sources.label_of(str(fields.get("_name_or_path", ""))))


def _labelled(config: AutoencoderTinyConfig, label: str) -> AutoencoderTinyConfig:
    return config if config.raw_latent_scale is not None else config.labelled(label)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its config is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: its config must be a JSON object")
    return fields


def _read_scalars(part: Part, extra: Sequence[str]) -> dict[str, float]:
    for name in extra:
        if part.shapes[name] not in ((), (1,)):
            raise CheckpointError(f"{name} must be one number, got shape {part.shapes[name]}")
    return {name: float(t.reshape(())) for name, t in part.read(list(extra)).items()}


def _set(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for word in path[:-1]:
        tree = tree.setdefault(word, {})
    tree[path[-1]] = value


def _check_finite(params: Params, origin: str) -> None:
    def walk(tree: Any, path: str) -> list[str]:
        if isinstance(tree, dict):
            return [p for k, v in tree.items() for p in walk(v, f"{path}.{k}")]
        return [] if np.isfinite(tree.astype(np.float32)).all() else [path[1:]]

    if bad := walk(params, ""):
        raise CheckpointError(f"{origin}: tensors with NaN or infinity: {', '.join(bad)}")

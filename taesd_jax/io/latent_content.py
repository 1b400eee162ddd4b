"""The array of a latent file, and what the file or its program's convention says about it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError
from .latent_fields import FIELDS
from .latent_png import read_png

SAFETENSORS = (".safetensors", ".latent")
TORCH = (".pt", ".pth")
READABLE = (".npy", ".npz", *SAFETENSORS, ".png", *TORCH)
# An archive may unpack to so many bytes, or to so many times its size.
_MAX_UNPACKED = 64 * 2**20
_MAX_EXPANSION = 8
# Names in a message; a checkpoint given as a latent has a hundred.
_MAX_SHOWN = 8
# ComfyUI's LoadLatent divides files without the name below by this; the others are unscaled.
_COMFYUI, _COMFYUI_UNSCALED, _COMFYUI_SCALE = "latent_tensor", "latent_format_version_0", 0.18215
# kohya's sd-scripts: latents or latents_HxW in .npz, latents_HxW_DTYPE in .safetensors.
_KOHYA = re.compile(r"latents(?P<flipped>_flipped)?(?P<size>_\d+x\d+)?(_[a-z0-9]+)?")


class Content(NamedTuple):
    """What a latent file holds.

    Attributes:
        array: As stored.
        fields: What `write_latent` stored beside it, by name.
        data_format: Axes, "NHWC" or "NCHW", if known.
        raw_multiplier: Turns the array into latents of the full VAE; None for other latents.
    """

    array: Any
    fields: dict[str, Any]
    data_format: str | None = None
    raw_multiplier: float | None = None


def read_content(path: Path, *, config: AutoencoderTinyConfig, key: str | None) -> Content:
    """Read the array of a latent file.

    Args:
        path: Ends with one of `READABLE`.
        config: Of the model that decodes it.
        key: Name of the array in the file; by default the only one, or the one that a known program
            writes.

    Raises:
        FileNotFoundError: There is no such file.
        MediaFileError: The file has no such array, or unpacks to far more than its size.
        Exception: Of any kind, for broken files.
    """
    path.stat()  # a missing file is no broken one
    match path.suffix.lower():
        case ".npy":
            return Content(np.load(path, mmap_mode="r", allow_pickle=False), {})
        case ".npz":
            return _read_npz(path, config, key)
        case ".png":
            array, fields = read_png(path, config=config)
            return Content(array, fields, "NHWC")
        case suffix if suffix in SAFETENSORS:
            return _read_safetensors(path, config, key)
        case suffix if suffix in TORCH:
            return _read_torch(path, config, key)
    raise MediaFileError(f"{path}: a latent's suffix must be one of {', '.join(READABLE)}")


def _read_npz(path: Path, config: AutoencoderTinyConfig, key: str | None) -> Content:
    if not zipfile.is_zipfile(path):
        raise MediaFileError(f"{path}: not a .npz archive; a single array is an .npy file")
    check_archive(path)
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        fields = {name: file[name].tolist() for name in FIELDS if name in file.files}
        fields = {k: v.decode() if isinstance(v, bytes) else v for k, v in fields.items()}
        name = _select_name(set(file.files) - {*FIELDS}, path, key)
        return _interpret(file[name], fields, name, file.files, config)


def _read_safetensors(path: Path, config: AutoencoderTinyConfig, key: str | None) -> Content:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata, names = file.metadata() or {}, list(file.keys())
        fields = {name: metadata[name] for name in FIELDS if name in metadata}
        name = _select_name(names, path, key)
        return _interpret(file.get_tensor(name), fields, name, [*names, *metadata], config)


def _read_torch(path: Path, config: AutoencoderTinyConfig, key: str | None) -> Content:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MediaFileError(f"{path}: {path.suffix} files need torch; or save .npy") from error
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its message is a page on how to trust the file
        raise MediaFileError(
            f"{path}: expected a tensor or a dict of tensors, saved by torch.save"
        ) from error
    named = content if isinstance(content, dict) else {"": content}
    tensors = {
        str(name): tensor.detach()
        for name, tensor in named.items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    }
    name = _select_name(tensors, path, key)
    # A tensor may repeat few stored values many times.
    _check_size(path, tensors[name].numel() * 4)
    return _interpret(tensors[name].float().numpy(), {}, name, tensors, config)


def _select_name(names: Iterable[str], path: Path, key: str | None) -> str:
    """Return the name of the latent among those of a file."""
    names = sorted(names)
    if key is not None:
        candidates = [key] if key in names else []
    else:
        known = [name for name in ("latent", _COMFYUI) if name in names]
        kohya = [name for name in names if (m := _KOHYA.fullmatch(name)) and not m["flipped"]]
        candidates = known[:1] or kohya or names
    if len(candidates) != 1:
        shown = ", ".join(names[:_MAX_SHOWN]) + (", ..." if len(names) > _MAX_SHOWN else "")
        raise MediaFileError(
            f"{path}: expected one array or one named {key or 'latent'!r}, got {len(names)}: "
            f"{shown}; name one with key (--key)"
        )
    return candidates[0]


def _interpret(
    array: np.ndarray,
    fields: dict[str, Any],
    name: str,
    others: Iterable[str],
    config: AutoencoderTinyConfig,
) -> Content:
    """Add the convention of the program that writes such a name beside others."""
    others = set(others)
    if name == _COMFYUI:
        multiplier = 1.0 if _COMFYUI_UNSCALED in others else 1 / _COMFYUI_SCALE
        return Content(array, fields, "NCHW", multiplier)
    size = (match["size"] or "") if (match := _KOHYA.fullmatch(name)) else None
    if size is not None and others & {f"original_size{size}", f"crop_ltrb{size}"}:
        # FLUX.1's autoencoder in sd-scripts scales and shifts by itself.
        return Content(array, fields, "NCHW", None if config.variant == "taef1" else 1.0)
    return Content(array, fields, fields.get("data_format"))


def check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        _check_size(path, sum(member.file_size for member in archive.infolist()))


def _check_size(path: Path, size: int) -> None:
    limit = max(_MAX_UNPACKED, _MAX_EXPANSION * path.stat().st_size)
    if size > limit:
        raise MediaFileError(
            f"{path}: unpacks to {size} bytes, expected at most {limit}; save the latent alone, "
            f"as .npy or .safetensors"
        )

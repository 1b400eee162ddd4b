"""Latent files: .npy, .npz, .safetensors, and 8-bit PNG as the original project stores them.

A PNG holds four channels as RGBA, scaled to [0, 1] by `latent_magnitude` and `latent_shift`; models
with more channels stack groups of four vertically. Values beyond the magnitude are clipped.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError
from .files import reading, write_files

SUFFIXES = (".npy", ".npz", ".safetensors", ".png")
DTYPES = ("float32", "float16", "bfloat16", "float64")
_PNG_TEXT = "taesd-jax"


class StoredLatent(NamedTuple):
    """What `read_latent` returns.

    Attributes:
        latent: As stored, (n, h, w, z), or (n, z, h, w) from programs that write NCHW.
        image_size: Height and width of the image that it was encoded from, if known.
    """

    latent: np.ndarray
    image_size: tuple[int, int] | None


def write_latent(
    path: str | os.PathLike[str],
    latent: np.ndarray,
    *,
    config: AutoencoderTinyConfig,
    image_size: tuple[int, int] | None = None,
    software: str | None = None,
) -> None:
    """Write latents (n, h, w, z) to a file; the suffix names the format.

    Args:
        path: Ends with one of `SUFFIXES`.
        latent: In model space. A PNG holds one latent with a multiple of four channels. .npy and
            .npz hold bfloat16 as float32, without loss.
        config: Gives the range of 8-bit storage.
        image_size: Height and width to crop the decoded image to; .npy does not store it.
        software: What wrote the file; .npy does not store it.

    Raises:
        MediaFileError: The suffix is unknown, or a PNG cannot hold this latent.
        ValueError: The latent has another rank, or NaN or infinity.
        TypeError: The latent is not floating point.
    """
    path = Path(path)
    if latent.dtype.name not in DTYPES:
        raise TypeError(f"latent must be {', '.join(DTYPES)}, got {latent.dtype}")
    if latent.ndim != 4:
        raise ValueError(f"latent must be (n, h, w, z), got shape {latent.shape}")
    check_finite(latent)
    buffer = io.BytesIO()
    size = [int(side) for side in image_size] if image_size else None
    portable = latent.astype(np.float32) if latent.dtype.name == "bfloat16" else latent
    match path.suffix.lower():
        case ".npy":
            np.save(buffer, portable, allow_pickle=False)
        case ".npz":
            arrays: dict[str, Any] = {"latent": portable}
            if size:
                arrays["image_size"] = np.asarray(size)
            if software:
                arrays["software"] = np.asarray(software.encode())
            np.savez(buffer, **arrays)
        case ".safetensors":
            from safetensors.numpy import save

            metadata = {"data_format": "NHWC"} | ({"image_size": json.dumps(size)} if size else {})
            metadata |= {"software": software} if software else {}
            buffer.write(save({"latent": np.ascontiguousarray(latent)}, metadata=metadata))
        case ".png":
            _write_png(buffer, latent, config, {"image_size": size, "software": software})
        case _:
            raise MediaFileError(f"{path}: a latent's suffix must be one of {', '.join(SUFFIXES)}")
    write_files({path: buffer.getvalue()})


def read_latent(path: str | os.PathLike[str], *, config: AutoencoderTinyConfig) -> StoredLatent:
    """Read a file of `write_latent`, or any file of one array with a latent or a batch.

    Raises:
        MediaFileError: There is no such file, it is broken, or it does not hold one floating-point
            array of rank 3 or 4.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    with reading(path):
        if path.suffix.lower() == ".png":
            stored = _read_png(path, config)
        elif reader := readers.get(path.suffix.lower()):
            stored = reader(path)
        else:
            raise MediaFileError(f"{path}: a latent's suffix must be one of {', '.join(SUFFIXES)}")
    latent = stored.latent
    if not isinstance(latent, np.ndarray):
        raise MediaFileError(f"{path}: expected one array, got {type(latent).__name__}")
    if latent.ndim not in (3, 4) or latent.dtype.name not in DTYPES or 0 in latent.shape:
        raise MediaFileError(
            f"{path}: expected {', '.join(DTYPES)} of shape (h, w, z) or (n, h, w, z), got "
            f"{latent.dtype} {latent.shape}"
        )
    # Files may hold the other byte order, which JAX does not take.
    latent = latent.astype(latent.dtype.newbyteorder("="), copy=False)
    return stored._replace(latent=latent[None] if latent.ndim == 3 else latent)


def check_finite(latent: np.ndarray) -> None:
    """Raise ValueError for a latent with NaN or infinity; its image might look right."""
    if not np.isfinite(latent).all():
        raise ValueError("the latent has NaN or infinity; encode in float32 or bfloat16")


def clipped_share(latent: np.ndarray, config: AutoencoderTinyConfig) -> float:
    """Return the fraction of values that 8-bit storage would clip."""
    scaled = _to_unit_range(latent, config)
    return float(np.mean((scaled < 0) | (scaled > 1)))


def _to_unit_range(latent: np.ndarray, config: AutoencoderTinyConfig) -> np.ndarray:
    """Map latents to [0, 1] without clipping, as `AutoencoderTiny.scale_latents` does."""
    return latent.astype(np.float32) / (2 * config.latent_magnitude) + config.latent_shift


def _read_npy(path: Path) -> StoredLatent:
    return StoredLatent(np.load(path, mmap_mode="r", allow_pickle=False), None)


def _read_npz(path: Path) -> StoredLatent:
    # np.load(path) would not close a file that is not a zip archive.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        names = [name for name in file.files if name not in ("image_size", "software")]
        size = _check_size(file["image_size"].tolist()) if "image_size" in file.files else None
        return StoredLatent(file[_select_name(names, path)], size)


def _read_safetensors(path: Path) -> StoredLatent:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        size = _check_size(json.loads((file.metadata() or {}).get("image_size", "null")))
        return StoredLatent(file.get_tensor(_select_name(list(file.keys()), path)), size)


def _select_name(names: list[str], path: Path) -> str:
    if "latent" in names:
        return "latent"
    if len(names) != 1:
        raise MediaFileError(f"{path}: expected one array or one named 'latent', got {names}")
    return names[0]


def _check_size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or any(type(v) is not int for v in value):
        raise ValueError(f"image_size must be two integers, got {value!r}")
    return value[0], value[1]


def _write_png(
    buffer: io.BytesIO, latent: np.ndarray, config: AutoencoderTinyConfig, fields: dict[str, Any]
) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    n, h, w, z = latent.shape
    if n != 1 or z % 4:
        raise MediaFileError(
            f"an 8-bit PNG holds one latent with a multiple of 4 channels, got shape "
            f"{latent.shape}; use .safetensors"
        )
    pixels = np.round(np.clip(_to_unit_range(latent[0], config), 0, 1) * 255).astype(np.uint8)
    groups = pixels.reshape(h, w, z // 4, 4).transpose(2, 0, 1, 3)  # (z / 4, h, w, 4)
    text = PngInfo()
    fields = fields | {"latent_channels": z, "magnitude": config.latent_magnitude}
    fields["shift"] = config.latent_shift
    text.add_text(_PNG_TEXT, json.dumps(fields))
    Image.fromarray(groups.reshape(z // 4 * h, w, 4)).save(buffer, "PNG", pnginfo=text)


def _read_png(path: Path, config: AutoencoderTinyConfig) -> StoredLatent:
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as file:
        file.load()
        if file.mode != "RGBA":
            raise MediaFileError(f"{path}: a latent's PNG must be RGBA, got {file.mode}")
        pixels = np.asarray(file)
        text = json.loads(getattr(file, "text", {}).get(_PNG_TEXT, "{}"))
    if not isinstance(text, dict):
        raise ValueError(f"its {_PNG_TEXT} text must be a JSON object")
    # PNGs of the original project have no text, and four channels.
    z = text.get("latent_channels", 4)
    if type(z) is not int or z != config.latent_channels or z % 4:
        name = config.variant or "this model"
        raise MediaFileError(
            f"{path}: {name} needs {config.latent_channels} latent channels, this PNG holds {z!r}"
        )
    rows, w, _ = pixels.shape
    groups = pixels.reshape(z // 4, rows // (z // 4), w, 4).transpose(1, 2, 0, 3)
    x = groups.reshape(*groups.shape[:2], z).astype(np.float32) / np.float32(255)
    magnitude = np.float32(text.get("magnitude", config.latent_magnitude))
    shift = np.float32(text.get("shift", config.latent_shift))
    if not (0 < magnitude < np.inf and 0 <= shift <= 1):
        raise ValueError(f"its range is {magnitude} around {shift}")
    latent = (x - shift) * (2 * magnitude)
    return StoredLatent(latent, _check_size(text.get("image_size")))

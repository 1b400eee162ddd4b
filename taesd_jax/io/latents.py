"""Latents on disk: .npy, .npz, .safetensors, and 8-bit PNG as the original stores them.

A PNG holds four channels as RGBA, scaled to [0, 1] by `latent_magnitude` and `latent_shift`; more
channels are groups of four, one below the other. It keeps 8 bits of +-3 and clips what is beyond.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import PictureError
from .files import check_regular, write_files

SUFFIXES = (".npy", ".npz", ".safetensors", ".png")
DTYPES = ("float32", "float16", "bfloat16", "float64")
_PNG_TEXT = "taesd-jax"


class StoredLatent(NamedTuple):
    """What `read_latent` returns.

    Attributes:
        latent: As stored: (n, h, w, z), or (n, z, h, w) where another program wrote that.
        image_size: Height and width of the picture that it was encoded from, if known.
    """

    latent: np.ndarray
    image_size: tuple[int, int] | None


def write_latent(
    path: str | os.PathLike[str],
    latent: np.ndarray,
    *,
    config: AutoencoderTinyConfig,
    image_size: tuple[int, int] | None = None,
) -> None:
    """Write latents (n, h, w, z) in the format that the suffix names.

    Args:
        path: Ends with one of `SUFFIXES`; .npy has no room for `image_size`.
        latent: In model space. A PNG takes one latent, of a multiple of four channels. .npy and
            .npz hold bfloat16 as float32, which loses nothing.
        config: For the range of 8-bit storage.
        image_size: Height and width to crop to after decoding.

    Raises:
        PictureError: The suffix is unknown, a PNG cannot hold this latent, or it is not finite.
    """
    path = Path(path)
    if latent.ndim != 4 or latent.dtype.name not in DTYPES:
        raise PictureError(
            f"latent must be floating point (n, h, w, z), got {latent.dtype} {latent.shape}"
        )
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
            np.savez(buffer, **arrays)
        case ".safetensors":
            from safetensors.numpy import save

            metadata = {"layout": "NHWC"} | ({"image_size": json.dumps(size)} if size else {})
            buffer.write(save({"latent": np.ascontiguousarray(latent)}, metadata=metadata))
        case ".png":
            _write_png(buffer, latent, config, size)
        case _:
            raise PictureError(f"{path}: a latent's suffix must be one of {', '.join(SUFFIXES)}")
    write_files({path: buffer.getvalue()})


def read_latent(path: str | os.PathLike[str], *, config: AutoencoderTinyConfig) -> StoredLatent:
    """Read what `write_latent` wrote, or any array of one latent or a batch.

    Raises:
        PictureError: There is no such file, it is broken, or it does not hold one floating-point
            array of rank 3 or 4.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    try:
        check_regular(path)
        if path.suffix.lower() == ".png":
            stored = _read_png(path, config)
        elif reader := readers.get(path.suffix.lower()):
            stored = reader(path)
        else:
            raise PictureError(f"{path}: a latent's suffix must be one of {', '.join(SUFFIXES)}")
    except FileNotFoundError as error:
        raise PictureError(f"no such latent: {path}") from error
    except PictureError:
        raise
    except Exception as error:  # numpy, zipfile, Pillow and json raise of every kind
        raise PictureError(f"{path}: not a whole {path.suffix} file: {error}") from error
    latent = stored.latent
    if not isinstance(latent, np.ndarray):
        raise PictureError(f"{path}: expected one array, got {type(latent).__name__}")
    if latent.ndim not in (3, 4) or latent.dtype.name not in DTYPES or 0 in latent.shape:
        raise PictureError(
            f"{path}: expected {', '.join(DTYPES)} of shape (h, w, z) or (n, h, w, z), got "
            f"{latent.dtype} {latent.shape}"
        )
    # Files may hold the other byte order, which JAX does not take.
    latent = latent.astype(latent.dtype.newbyteorder("="), copy=False)
    return stored._replace(latent=latent[None] if latent.ndim == 3 else latent)


def check_finite(latent: np.ndarray) -> None:
    """Raise PictureError where a latent has NaN or infinity: its picture might look whole."""
    if not np.isfinite(latent).all():
        raise PictureError("the latent has NaN or infinity; encode in float32 or bfloat16")


def clipped_share(latent: np.ndarray, config: AutoencoderTinyConfig) -> float:
    """Return the share of values that 8-bit storage would clip."""
    y = np.asarray(latent, np.float32) / (2 * config.latent_magnitude) + config.latent_shift
    return float(np.mean((y < 0) | (y > 1)))


def _read_npy(path: Path) -> StoredLatent:
    return StoredLatent(np.load(path, mmap_mode="r", allow_pickle=False), None)


def _read_npz(path: Path) -> StoredLatent:
    # numpy leaves a file that it opened itself open when it is no zip file.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        names = [name for name in file.files if name != "image_size"]
        size = _size(file["image_size"].tolist()) if "image_size" in file.files else None
        return StoredLatent(file[_one(names, path)], size)


def _read_safetensors(path: Path) -> StoredLatent:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            size = json.loads((file.metadata() or {}).get("image_size", "null"))
            return StoredLatent(file.get_tensor(_one(list(file.keys()), path)), _size(size))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _one(names: list[str], path: Path) -> str:
    if "latent" in names:
        return "latent"
    if len(names) != 1:
        raise PictureError(f"{path}: expected one array or one named 'latent', got {names}")
    return names[0]


def _size(value) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or any(type(v) is not int for v in value):
        raise ValueError(f"image_size must be two integers, got {value!r}")
    return value[0], value[1]


def _write_png(buffer, latent: np.ndarray, config: AutoencoderTinyConfig, size) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    n, h, w, z = latent.shape
    if n != 1 or z % 4:
        raise PictureError(
            f"an 8-bit PNG holds one latent of a multiple of 4 channels, got shape {latent.shape}; "
            f"use .safetensors"
        )
    x = latent[0].astype(np.float32) / (2 * config.latent_magnitude) + config.latent_shift
    pixels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    groups = pixels.reshape(h, w, z // 4, 4).transpose(2, 0, 1, 3)  # (z / 4, h, w, 4)
    text = PngInfo()
    stated = {"latent_channels": z, "image_size": size}
    stated |= {"magnitude": config.latent_magnitude, "shift": config.latent_shift}
    text.add_text(_PNG_TEXT, json.dumps(stated))
    Image.fromarray(groups.reshape(z // 4 * h, w, 4)).save(buffer, "PNG", pnginfo=text)


def _read_png(path: Path, config: AutoencoderTinyConfig) -> StoredLatent:
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as file:
        file.load()
        if file.mode != "RGBA":
            raise PictureError(f"{path}: a latent's PNG must be RGBA, got {file.mode}")
        pixels = np.asarray(file)
        text = json.loads(getattr(file, "text", {}).get(_PNG_TEXT, "{}"))
    if not isinstance(text, dict):
        raise ValueError(f"its {_PNG_TEXT} text must be a JSON object")
    # The original's PNGs carry no text and have four channels.
    z = text.get("latent_channels", 4)
    if type(z) is not int or z != config.latent_channels or z % 4:
        name = config.variant or "this model"
        raise PictureError(
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
    return StoredLatent(latent, _size(text.get("image_size")))

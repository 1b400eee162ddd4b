"""Latents as 8-bit PNG, as the original project stores them.

A PNG holds four channels as RGBA, scaled to [0, 1] by `latent_magnitude` and `latent_shift`; models
with more channels stack groups of four vertically. Values beyond the magnitude are clipped.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError

PNG_TEXT = "taesd-jax"  # key of the text that says how a latent is stored


def png_bytes(
    latent: np.ndarray, fields: Mapping[str, Any], *, config: AutoencoderTinyConfig
) -> bytes:
    """Serialise a latent (1, h, w, z); z must be a multiple of 4.

    Raises:
        MediaFileError: It has another shape.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    n, h, w, z = latent.shape
    if n != 1 or z % 4:
        raise MediaFileError(
            f"an 8-bit PNG holds one latent with a multiple of 4 channels, got shape "
            f"{latent.shape}; use .safetensors"
        )
    pixels = np.round(np.clip(to_unit_range(latent[0], config), 0, 1) * 255).astype(np.uint8)
    groups = pixels.reshape(h, w, z // 4, 4).transpose(2, 0, 1, 3)  # (z / 4, h, w, 4)
    stored = {"latent_channels": z, **fields}
    stored |= {"magnitude": config.latent_magnitude, "shift": config.latent_shift}
    text, buffer = PngInfo(), io.BytesIO()
    text.add_text(PNG_TEXT, json.dumps(stored))
    Image.fromarray(groups.reshape(z // 4 * h, w, 4)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def read_png(path: Path, *, config: AutoencoderTinyConfig) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a latent (1, h, w, z) and the fields that were written with it.

    PNGs of the original project have no fields, and four channels.

    Raises:
        MediaFileError: The image is not RGBA, or its height does not fit the number of channels.
    """
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as file:
        file.load()
        if file.mode != "RGBA":
            raise MediaFileError(f"{path}: a latent's PNG must be RGBA, got {file.mode}")
        pixels = np.asarray(file)
        fields = json.loads(getattr(file, "text", {}).get(PNG_TEXT, "{}"))
    if not isinstance(fields, dict):
        raise ValueError(f"its {PNG_TEXT} text must be a JSON object")
    if not fields and (pixels[..., 3] == 255).all():
        raise MediaFileError(f"{path}: an opaque image, not a latent; encode it first")
    z, (rows, w, _) = fields.get("latent_channels", 4), pixels.shape
    if type(z) is not int or z < 4 or z % 4 or rows % (z // 4):
        raise MediaFileError(f"{path}: {rows} rows cannot hold {z!r} latent channels")
    magnitude = np.float32(fields.get("magnitude", config.latent_magnitude))
    shift = np.float32(fields.get("shift", config.latent_shift))
    if not (0 < magnitude < np.inf and 0 <= shift <= 1):
        raise ValueError(f"its range is {magnitude} around {shift}")
    groups = pixels.reshape(z // 4, rows // (z // 4), w, 4).transpose(1, 2, 0, 3)
    scaled = groups.reshape(1, *groups.shape[:2], z).astype(np.float32) / np.float32(255)
    return (scaled - shift) * (2 * magnitude), fields


def clipped_share(latent: np.ndarray, config: AutoencoderTinyConfig) -> float:
    """Return the fraction of values beyond the range of 8-bit storage."""
    scaled = to_unit_range(latent, config)
    return float(np.mean((scaled < 0) | (scaled > 1)))


def to_unit_range(latent: np.ndarray, config: AutoencoderTinyConfig) -> np.ndarray:
    """Map latents to [0, 1] without clipping, as `AutoencoderTiny.scale_latents` does."""
    return latent.astype(np.float32) / (2 * config.latent_magnitude) + config.latent_shift

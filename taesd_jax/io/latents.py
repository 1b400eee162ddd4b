"""Latent files: .npy, .npz, .safetensors and 8-bit PNG, and those of other programs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError
from .files import reading, write_files
from .latent_content import Content, read_content
from .latent_fields import check_model, make_fields, name_of, read_size
from .latent_png import png_bytes

SUFFIXES = (".npy", ".npz", ".safetensors", ".png")
DTYPES = ("float32", "float16", "bfloat16", "float64")


class StoredLatent(NamedTuple):
    """What `read_latent` returns.

    Attributes:
        latent: (n, h, w, z), in model space.
        image_size: Height and width to crop the decoded image to; those of the whole image where
            the file does not tell, as in .npy and in the original project's PNG.
    """

    latent: np.ndarray
    image_size: tuple[int, int]


def write_latent(
    path: str | os.PathLike[str],
    latent: np.ndarray,
    *,
    config: AutoencoderTinyConfig,
    image_size: tuple[int, int] | None = None,
    encoder_sha256: str | None = None,
    software: str | None = None,
) -> None:
    """Write latents (n, h, w, z) to a file; the suffix names the format.

    All formats but .npy also store the config, the model's name, the axes, that the latents are in
    model space (scale 1, shift 0), and the arguments below. `read_latent` checks them.

    Args:
        path: Ends with one of `SUFFIXES`.
        latent: In model space. A PNG holds one latent with a multiple of four channels. .npy and
            .npz hold bfloat16 as float32, without loss.
        config: Of the model that made the latents; gives the range of 8-bit storage.
        image_size: Height and width to crop the decoded image to.
        encoder_sha256: Digest of the encoder's params.
        software: What writes the file.

    Raises:
        MediaFileError: The suffix is unknown, or a PNG cannot hold this latent.
        ValueError: The latent has another rank, or NaN or infinity.
        TypeError: The latent is not floating point.
    """
    path, latent = Path(path), np.asarray(latent)
    _check_latent(latent)
    fields = make_fields(
        config, image_size=image_size, encoder_sha256=encoder_sha256, software=software
    )
    write_files({path: _to_bytes(path, latent, fields, config)})


def _to_bytes(
    path: Path, latent: np.ndarray, fields: dict[str, Any], config: AutoencoderTinyConfig
) -> bytes:
    portable = latent.astype(np.float32) if latent.dtype.name == "bfloat16" else latent
    buffer = io.BytesIO()
    match path.suffix.lower():
        case ".npy":
            np.save(buffer, portable, allow_pickle=False)
        case ".npz":
            # Text as bytes: in NumPy's, `command_of` would not find the software.
            arrays: dict[str, Any] = {
                k: np.asarray(v.encode() if isinstance(v, str) else v) for k, v in fields.items()
            }
            np.savez(buffer, latent=portable, **arrays)
        case ".safetensors":
            from safetensors.numpy import save

            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
            buffer.write(save({"latent": np.ascontiguousarray(latent)}, metadata=texts))
        case ".png":
            buffer.write(png_bytes(latent, fields, config=config))
        case _:
            raise MediaFileError(f"{path}: a latent's suffix must be one of {', '.join(SUFFIXES)}")
    return buffer.getvalue()


def _check_latent(latent: np.ndarray) -> None:
    if latent.dtype.name not in DTYPES:
        raise TypeError(f"latent must be {', '.join(DTYPES)}, got {latent.dtype}")
    if latent.ndim != 4:
        raise ValueError(f"latent must be (n, h, w, z), got shape {latent.shape}")
    check_finite(latent)


def read_latent(
    path: str | os.PathLike[str],
    *,
    config: AutoencoderTinyConfig,
    data_format: Literal["NHWC", "NCHW"] | None = None,
    key: str | None = None,
    raw: bool = False,
    encoder_sha256: str | None = None,
) -> StoredLatent:
    """Read a latent or a batch as (n, h, w, z) in model space.

    Files of `write_latent`, ComfyUI's .latent and the caches of kohya's sd-scripts are read by
    their conventions. Others hold one array, also .pt and .pth where torch is installed.

    Args:
        path: File; the suffix names the format.
        config: Of the model that is to decode the latents.
        data_format: Axes; by default as the file says, or as the number of channels tells.
        key: Name of the array, in a file of several.
        raw: The values are those of the full VAE, which `from_vae_latents` converts.
        encoder_sha256: Digest of the encoder that belongs to the model, if it is loaded.

    Raises:
        MediaFileError: There is no such file, it is broken, or it does not hold one floating-point
            array of rank 3 or 4; its axes are not known; another model made the latents.
    """
    path = Path(path)
    with reading(path):
        content = read_content(path, config=config, key=key)
        check_model(content.fields, path, config=config, encoder_sha256=encoder_sha256)
        size = read_size(content.fields)
    latent = _to_batch(content.array, path)
    latent = _to_nhwc(latent, data_format or content.data_format, path, config)
    if raw or content.raw_multiplier is not None:
        latent = _to_model_space(latent, content, path, config)
    factor = config.spatial_factor
    h, w = (side * factor for side in latent.shape[1:3])
    size = size or (h, w)
    # `encode` pads by less than one latent.
    if not (0 <= h - size[0] < factor and 0 <= w - size[1] < factor):
        raise MediaFileError(
            f"{path}: its image_size is {size[1]}x{size[0]}, but it decodes to {w}x{h}"
        )
    return StoredLatent(latent, size)


def check_finite(latent: np.ndarray) -> None:
    """Raise ValueError for NaN, infinity or values beyond float32; the image might look right."""
    with np.errstate(over="ignore"):
        if not np.isfinite(latent.astype(np.float32, copy=False)).all():
            raise ValueError(
                "the latent has NaN or infinity as float32; encode in float32 or bfloat16"
            )


def _to_batch(array: Any, path: Path) -> np.ndarray:
    """Return the array of a file with four axes, checked to be floating point."""
    if not isinstance(array, np.ndarray):
        raise MediaFileError(f"{path}: expected one array, got {type(array).__name__}")
    if array.ndim not in (3, 4) or array.dtype.name not in DTYPES or 0 in array.shape:
        raise MediaFileError(
            f"{path}: expected {', '.join(DTYPES)} of shape (h, w, z) or (n, h, w, z), got "
            f"{array.dtype} {array.shape}"
        )
    # Files may hold the other byte order, which JAX does not take.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array[None] if array.ndim == 3 else array


def _to_nhwc(
    latent: np.ndarray, data_format: str | None, path: Path, config: AutoencoderTinyConfig
) -> np.ndarray:
    """Move the channels last, if they are not; a shape that fits neither format is left alone."""
    channels = config.latent_channels
    fitting = [name for name, axis in (("NHWC", 3), ("NCHW", 1)) if latent.shape[axis] == channels]
    if data_format is None and len(fitting) == 2:
        raise MediaFileError(
            f"{path}: shape {latent.shape} may be NHWC or NCHW; pass data_format (--data-format)"
        )
    if data_format is None:
        data_format = fitting[0] if fitting else "NHWC"
    elif data_format not in fitting:
        advice = f"; it is {fitting[0]}" if fitting else ""
        raise MediaFileError(
            f"{path}: {name_of(config)} needs {channels} latent channels, which shape "
            f"{latent.shape} does not have as {data_format}{advice}"
        )
    return latent if data_format == "NHWC" else latent.transpose(0, 2, 3, 1)


def _to_model_space(
    latent: np.ndarray, content: Content, path: Path, config: AutoencoderTinyConfig
) -> np.ndarray:
    if content.fields.get("latent_space") == "model":
        raise MediaFileError(f"{path}: its latents are in model space; leave out raw (--raw)")
    if config.raw_latent_scale is None:
        raise MediaFileError(
            f"{path}: its latents have the scale of the full VAE, which is not known for "
            f"{name_of(config)} (no raw_latent_scale)"
        )
    latent = latent.astype(np.float32) * np.float32(content.raw_multiplier or 1)
    return (latent - (config.raw_latent_shift or 0)) * config.raw_latent_scale

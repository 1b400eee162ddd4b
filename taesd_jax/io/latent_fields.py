"""What latent files say beside the array: the model that made it, and the size of the image."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import AutoencoderTinyConfig
from ..errors import MediaFileError, warn

FIELDS = (
    *("data_format", "latent_space", "config", "model", "encoder_sha256"),
    *("software", "image_size"),
)
# What models that read each other's latents have in common, where it is known.
_COMMON = ("latent_channels", "spatial_factor", "raw_latent_scale", "raw_latent_shift")


def make_fields(
    config: AutoencoderTinyConfig,
    *,
    image_size: tuple[int, int] | None,
    encoder_sha256: str | None,
    software: str | None,
) -> dict[str, Any]:
    """Return the fields of a latent file by name, those of `FIELDS` that are known."""
    fields = {
        "data_format": "NHWC",
        "latent_space": "model",
        "config": json.dumps(config.to_dict()),
        "model": config.name_or_path,
        "encoder_sha256": encoder_sha256,
        "software": software,
        "image_size": [int(side) for side in image_size or ()],
    }
    return {name: value for name, value in fields.items() if value}


def check_model(
    fields: Mapping[str, Any],
    path: Path,
    *,
    config: AutoencoderTinyConfig,
    encoder_sha256: str | None,
) -> None:
    """Check that a model can decode the latents of a file, and warn where that is not known.

    Args:
        fields: Those of the file.
        path: The file.
        config: Of the model.
        encoder_sha256: Digest of the model's encoder, if it is loaded.

    Raises:
        MediaFileError: A model of another latent space made the latents.
    """
    if fields.get("latent_space") != "model" or "config" not in fields:
        return
    maker = AutoencoderTinyConfig.from_dict(json.loads(fields["config"]))
    name = fields.get("model") or maker.variant or "another model"
    pairs = [(getattr(maker, field), getattr(config, field)) for field in _COMMON]
    known = [pair for pair in pairs if None not in pair]
    # ComfyUI's checkpoints store the scale in float32.
    if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in known):
        raise MediaFileError(
            f"{path}: made by {name}, whose latents {name_of(config)} cannot decode; load that "
            f"model (--model {name})"
        )
    stored = fields.get("encoder_sha256")
    if len(known) < len(pairs) and stored and encoder_sha256 and stored != encoder_sha256:
        warn(
            f"{path}: made by {name} with another encoder than this model's, which may have "
            f"other latents"
        )


def read_size(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the image's height and width, if a file has them.

    Raises:
        ValueError: They are not two integers.
    """
    size = fields.get("image_size")
    size = json.loads(size) if isinstance(size, str) else size
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int for side in size):
        raise ValueError(f"image_size must be two integers, got {size!r}")
    return size[0], size[1]


def name_of(config: AutoencoderTinyConfig) -> str:
    """Return the name of a model for messages."""
    return config.variant or config.name_or_path or "this model"

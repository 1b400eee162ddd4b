"""What a training run needs of memory and disk: absurd sizes are refused at once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..config import AutoencoderTinyConfig
from ..errors import TrainingError
from ..model.layers import build_layers, split_layers
from ..strategies.geometry import size_after
from ..strategies.planner import device_memory
from .recipe import Recipe


def check_sizes(
    recipe: Recipe, config: AutoencoderTinyConfig, device: Any, *, devices: int, cache: Path
) -> None:
    """Raise TrainingError for sizes that cannot fit; a step takes several times what is counted.

    Args:
        recipe: Its sizes are checked.
        config: The student's architecture.
        device: One of those that share a batch.
        devices: Their number.
        cache: Folder for the teacher's results for `num_crops` crops.
    """
    side = recipe.crop_size
    image, latent = 3 * side**2, 4 * (side // config.spatial_factor) ** 2 * config.latent_channels
    memory = device_memory(device)
    step = 4 * image + _activation_bytes(recipe, config)
    needs: list[tuple[str, float, int, str, int]] = [
        ("batch_size", recipe.batch_size / devices, step, "memory", memory)
    ]
    if recipe.needs("discriminator"):
        needs.append(("replay_size", recipe.replay_size, 4 * image + latent, "memory", memory))
    if recipe.num_crops is not None:
        each = (2 if recipe.teacher_blend else 1) * image + latent
        needs.append(("num_crops", recipe.num_crops, each, str(cache), _available(cache)))
    for name, count, each, place, available in needs:
        if count * each > available:
            raise TrainingError(
                f"{name} {getattr(recipe, name):,} needs {_amount(count * each)} of {place} or "
                f"more, {_amount(each)} a crop, and {_amount(available)} are there; lower it, or "
                f"crop_size"
            )


def _activation_bytes(recipe: Recipe, config: AutoencoderTinyConfig) -> int:
    """Return the bytes of what trained blocks return for a crop, kept for the backward pass."""
    component, side, values = recipe.component, recipe.crop_size, 0
    if component == "decoder":
        side //= config.spatial_factor
    _, trained = split_layers(component, config, recipe.frozen_stages)
    for layer in build_layers(component, config):
        side = size_after((layer,), side)
        if layer.kind == "block" and layer in trained:
            values += side**2 * layer.out_channels
    return values * (4 if recipe.dtype == "float32" else 2)


def _available(folder: Path) -> int:
    """Return the bytes that are free on the disk of a folder, and those of the cache in it."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(parent).free + sum(p.stat().st_size for p in folder.glob("*.npy"))


def _amount(number: float) -> str:
    """Return a number of bytes for people.

    >>> _amount(27_648)
    '27.6 kB'
    """
    units = iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while number >= 1000 and unit != "TB":
        number, unit = number / 1000, next(units)
    return f"{number:,.1f} {unit}"

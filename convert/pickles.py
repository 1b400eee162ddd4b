"""PyTorch's .pth files; only tensors are unpickled, never code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from taesd_jax import weights
from taesd_jax.config import AutoencoderTinyConfig
from taesd_jax.errors import CheckpointError, CheckpointNotFoundError
from taesd_jax.io.files import write_files
from taesd_jax.model.layers import COMPONENTS
from taesd_jax.weights.sources import label_of, pair_file, pickles

from .state_dicts import part_of, to_tensor


def load_pth(source: str | os.PathLike[str]) -> weights.Checkpoint:
    """Load state dicts that `torch.save` wrote, with the names of any scheme.

    Args:
        source: A file, or `PATH` for `PATH_encoder.pth` and `PATH_decoder.pth`, of which one may
            be absent.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It is not a state dict of this family, or it would run code.
    """
    try:
        path = Path(source).expanduser()
        files = [path] if path.is_file() else pickles(path)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointNotFoundError(f"no such file: {os.fspath(source)!r}: {error}") from error
    if not files and not path.name:
        raise CheckpointNotFoundError(f"no such file: {os.fspath(source)!r}")
    if not files:
        raise CheckpointNotFoundError(
            f"no such file: {path}, {pair_file(path, 'encoder', '.pth')} or "
            f"{pair_file(path, 'decoder', '.pth')}"
        )
    parts = [part_of(_read(file), str(file)) for file in files]
    label = label_of(path.name)
    return weights.assemble(parts, fields={}, label=label, origin=os.fspath(source))


def save_pth(
    path: str | os.PathLike[str], params: dict[str, Any], config: AutoencoderTinyConfig
) -> list[Path]:
    """Write the original pair `PATH_encoder.pth` and `PATH_decoder.pth`, each whole.

    Returns:
        The files written.

    Raises:
        CheckpointError: The params do not fit config, or config says something that the tensors
            alone cannot, such as another activation.
    """
    path = Path(path)
    if not config.fits_tensors:
        raise CheckpointError(
            "a .pth file has no room for a config, and this model's differs from the default in "
            "act_fn, the 8-bit range, force_upcast or a scaling factor; write layout 'flax'"
        )
    written = {}
    for component in COMPONENTS:
        if component not in params:
            continue
        (tensors,) = weights.serialise(
            {component: params[component]}, config, layout="original"
        ).values()
        buffer = io.BytesIO()
        torch.save({name: to_tensor(t) for name, t in tensors.items()}, buffer)
        written[pair_file(path, component, ".pth")] = buffer.getvalue()
    write_files(written)
    return list(written)


def _check_sizes(file: zipfile.ZipFile, path: Path) -> None:
    """Raise CheckpointError where more would come out of a file than there is in it."""
    parts = file.infolist()
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    if not stored or sum(part.file_size for part in parts) > path.stat().st_size:
        raise CheckpointError(f"{path}: refused, its parts are compressed or overlap")


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                _check_sizes(file, path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors and could run code when loaded"
        ) from error
    except Exception as error:  # torch.load raises of every kind on broken files
        kind = type(error).__name__
        raise CheckpointError(f"{path}: not a whole PyTorch file ({kind}: {error})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a state dict, got {type(state).__name__}")
    return state

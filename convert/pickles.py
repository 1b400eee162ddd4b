"""PyTorch's .pth files; only tensors are unpickled, never code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import torch

from taesd_jax import weights
from taesd_jax.config import AutoencoderTinyConfig
from taesd_jax.errors import CheckpointError, CheckpointNotFoundError
from taesd_jax.io.files import write_files
from taesd_jax.model.layers import COMPONENTS, Params
from taesd_jax.video.checkpoints import VideoCheckpoint, assemble_video
from taesd_jax.weights.files import read_json
from taesd_jax.weights.magic import TORCH, describe_file
from taesd_jax.weights.sources import find_local, pair_file

from .state_dicts import part_of, to_tensor


def load_pth(source: str | os.PathLike[str]) -> weights.Checkpoint:
    """Load state dicts of any format that `torch.save` wrote.

    Args:
        source: A file; a folder; or `PATH` for `PATH_encoder.pth` and `PATH_decoder.pth`, of which
            one may be absent. A config.json of diffusers beside them is read too.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It is not a state dict of this family, or it would run code.
    """
    files = find_local(Path(source))
    if files is None:
        raise CheckpointNotFoundError(
            f"no such file: {source}, {source}_encoder.pth or {source}_decoder.pth"
        )
    return weights.assemble(
        [part_of(_read(file), str(file)) for file in files.weights],
        fields=read_json(files.config) if files.config else {},
        variant=files.variant,
        origin=os.fspath(source),
    )


def load_video_pth(path: str | os.PathLike[str], *, variant: str | None = None) -> VideoCheckpoint:
    """Load a video model's state dict, as `taesd_jax.video.load_video` does a safetensors file.

    Args:
        path: A published file, such as taew2_1.pth.
        variant: A name of `VIDEO_VARIANTS`, needed where file name and shapes leave several.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It is not a model of this family, may be one of several, or would run code.
        ValueError: There is no such variant.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointNotFoundError(f"no such file: {path}")
    return assemble_video(part_of(_read(path), str(path)), variant=variant)


def save_pth(
    path: str | os.PathLike[str], params: Params, config: AutoencoderTinyConfig
) -> list[Path]:
    """Write the original pair `PATH_encoder.pth` and `PATH_decoder.pth`, atomically.

    Returns:
        The files written.

    Raises:
        CheckpointError: The params do not fit config, or the config has fields that the tensors
            alone do not tell, such as another activation.
    """
    path = Path(path)
    if not config.fits_tensors:
        raise CheckpointError(
            "a .pth file holds no config, and this model's act_fn, 8-bit range, force_upcast or "
            "scaling factors differ from the defaults; write format 'flax'"
        )
    contents = {}
    for component in COMPONENTS:
        if component not in params:
            continue
        (tensors,) = weights.serialise(
            {component: params[component]}, config, format="original"
        ).values()
        buffer = io.BytesIO()
        torch.save({name: to_tensor(t) for name, t in tensors.items()}, buffer)
        contents[pair_file(path, component, ".pth")] = buffer.getvalue()
    write_files(contents)
    return list(contents)


def _check_sizes(file: zipfile.ZipFile, path: Path) -> None:
    """Raise CheckpointError where a file would unpack to more than its size."""
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
    except Exception as error:  # torch.load raises errors of every kind on broken files
        if kind := describe_file(path, expected=TORCH):
            raise CheckpointError(f"{path}: expected a PyTorch file, got {kind}") from error
        if isinstance(error, pickle.UnpicklingError):
            reason = "refused, it holds more than tensors and could run code when loaded"
        else:
            reason = f"not a complete PyTorch file ({type(error).__name__}: {error})"
        raise CheckpointError(f"{path}: {reason}") from error
    # A training's checkpoint, such as PyTorch Lightning's.
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a state dict, got {type(state).__name__}")
    return state

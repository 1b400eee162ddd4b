"""Finds the files of a checkpoint, on disk or on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..config import VARIANTS
from ..errors import CheckpointError, CheckpointNotFoundError
from ..model.layers import COMPONENTS, Component
from .files import CONFIG_FILE, DIFFUSERS_FILE
from .hub import download_checkpoint

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pkl")
HUB_OWNER = "madebyollin"
# The small model, thumbnails for the published ones, and a sample photograph.
BUNDLED = Path(__file__).parents[1] / "bundled"
SMALL = "small"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Files(NamedTuple):
    """The files of one checkpoint.

    Attributes:
        weights: One file, or one for each component.
        config: The config.json beside them, if any.
        variant: Variant that a file or folder is named after, or ""; tells variants of one
            architecture apart.
    """

    weights: list[Path]
    config: Path | None
    variant: str


def find_files(source: str | os.PathLike[str], *, subfolder: str | None = "", **hub: Any) -> Files:
    """Find the files that `source` stands for; what is on disk comes before the hub.

    Args:
        source: A file; `PATH` for `PATH_encoder.safetensors` and `PATH_decoder.safetensors`, of
            which one may be absent; a folder; a hub id "owner/name"; a variant's name; or "small",
            the model bundled with this package.
        subfolder: Folder inside the folder or hub repository.
        **hub: Passed to `huggingface_hub.hf_hub_download`.

    Raises:
        CheckpointNotFoundError: There is none; the message lists what was expected.
        CheckpointError: It is a PyTorch pickle, or a folder without a checkpoint.
    """
    try:
        return _find(os.fspath(source), subfolder or "", hub)
    except CheckpointError:
        raise
    except (RuntimeError, OSError, ValueError) as error:  # the name is not a valid path
        raise CheckpointNotFoundError(f"no checkpoint {source!r}: {error}") from error


def _find(name: str, subfolder: str, hub: dict[str, Any]) -> Files:
    path = Path(name).expanduser()
    is_folder, is_file = path.is_dir(), path.is_file()
    bundled = name == SMALL and not any(path.glob("*.safetensors"))
    if is_folder and not bundled:
        return _find_in_folder(path / subfolder)
    if path.suffix.lower() in PICKLES or pickles(path):
        if path.exists() or pickles(path):
            raise CheckpointError(
                f"{name} is a PyTorch pickle, which is not loaded here; with torch installed run "
                f"`taesd-jax convert {name} {path.with_suffix('')}.safetensors`"
            )
        raise CheckpointNotFoundError(f"no such file: {name}")
    if is_file:
        # A diffusers folder has the config beside the weights.
        config = path.with_name(CONFIG_FILE)
        known = path.name == DIFFUSERS_FILE and config.is_file()
        variant = variant_from_name(path.stem) or (known and variant_from_name(path.parent.name))
        return Files([path], config if known else None, variant or "")
    pair = [file for component in COMPONENTS if (file := pair_file(path, component)).is_file()]
    if pair:
        return Files(pair, None, variant_from_name(path.name))
    if name == SMALL:
        return Files([BUNDLED / f"{SMALL}.safetensors"], None, "")
    if name in VARIANTS:
        name = f"{HUB_OWNER}/{name}"
    looks_local = path.suffix == ".safetensors" or name.startswith((".", "/", "~", "\\"))
    if _HUB_ID.fullmatch(name) and not looks_local:
        weights, config = download_checkpoint(name, subfolder, hub)
        return Files(weights, config, variant_from_name(name.split("/")[1]))
    raise CheckpointNotFoundError(
        f"no checkpoint {name!r}: expected a file, a folder, a pair {pair_file(path, 'encoder')} "
        f"and {pair_file(path, 'decoder')}, a hub id 'owner/name', or one of "
        f"{', '.join((SMALL, *VARIANTS))}"
    )


def pair_file(path: Path, component: Component, suffix: str = ".safetensors") -> Path:
    """Return the file of one component of the pair that `path` stands for."""
    return path.with_name(f"{path.name}_{component}{suffix}")


def pickles(path: Path) -> list[Path]:
    """Return the PyTorch files of the pair that `path` stands for, if it has no safetensors."""
    if not path.name or any(pair_file(path, component).is_file() for component in COMPONENTS):
        return []
    return [p for component in COMPONENTS if (p := pair_file(path, component, ".pth")).is_file()]


def variant_from_name(name: str) -> str:
    """Return the variant that a file or repository is named after, or "".

    >>> variant_from_name("taesdxl_decoder"), variant_from_name("my-model")
    ('taesdxl', '')
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((word for word in words if word in VARIANTS), "")


def missing_file(source: str, component: Component) -> str:
    """Return a sentence on which file to load for the component that `source` lacks."""
    other = "decoder" if component == "encoder" else "encoder"
    for suffix in (".safetensors", ".pth"):
        if source.endswith(f"_{other}{suffix}"):
            stem = source.removesuffix(f"_{other}{suffix}")
            return f"load {stem!r}, which needs {stem}_{component}{suffix} beside that file"
        if source and Path(f"{source}_{other}{suffix}").is_file():
            return f"add the missing file {source}_{component}{suffix}"
    return f"load a checkpoint with {component} tensors"


def _find_in_folder(folder: Path) -> Files:
    config = folder / CONFIG_FILE
    config = config if config.is_file() else None
    variant = variant_from_name(folder.name)
    if (weights := folder / DIFFUSERS_FILE).is_file():
        return Files([weights], config, variant)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    stems = {re.sub(r"_(encoder|decoder)$", "", file.stem) for file in files}
    if len(files) == 1 or (len(files) == 2 and len(stems) == 1):
        return Files(files, config, variant_from_name(stems.pop()) or variant)
    if not files:
        others = folder.glob("*") if folder.is_dir() else []
        torch = [file.name for file in others if file.suffix.lower() in PICKLES]
        hint = f"; {', '.join(sorted(torch))} are PyTorch pickles, name one" if torch else ""
        raise CheckpointNotFoundError(
            f"no checkpoint in {folder}: expected {DIFFUSERS_FILE} or one *.safetensors{hint}"
        )
    names = ", ".join(file.name for file in files)
    raise CheckpointError(f"several checkpoints in {folder}: {names}; name one of them")

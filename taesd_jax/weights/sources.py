"""Finds the files of a checkpoint, on disk or on the Hugging Face hub."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from ..config import DIFFUSERS_CLASS, VARIANTS
from ..errors import CheckpointError, CheckpointNotFoundError
from ..model.layers import COMPONENTS, Component
from .files import CONFIG_FILE, DIFFUSERS_FILE, read_json
from .hub import download_checkpoint

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pkl")
# The small model, thumbnails for the published ones, and a sample photograph.
BUNDLED = Path(__file__).parents[1] / "bundled"
SMALL = "small"
# The models that a name stands for, whatever lies in the working folder.
NAMES = (SMALL, *VARIANTS)

_HUB_OWNER = "madebyollin"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DIFFUSERS_STEM = Path(DIFFUSERS_FILE).stem
_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(.+)-\d{5}-of-(?!00001)(\d{5})")


class SourceFiles(NamedTuple):
    """The files of one checkpoint.

    Attributes:
        weights: One file, one for each component, or shards.
        config: The config.json beside them, if any.
        variant: Variant that a file or folder is named after, or ""; tells variants of one
            architecture apart.
        are_shards: Whether the weights are parts of one file, by an index.
    """

    weights: list[Path]
    config: Path | None
    variant: str
    are_shards: bool = False

    @property
    def are_pickles(self) -> bool:
        """Whether they are PyTorch's files, by their names."""
        return self.weights[0].suffix.lower() in PICKLES


def find_files(source: str | os.PathLike[str], *, subfolder: str, **hub: Any) -> SourceFiles:
    """Find the safetensors files that `source` stands for; what is on disk comes before the hub.

    Args:
        source: As in `load`.
        subfolder: As in `load`.
        **hub: Passed to `huggingface_hub.hf_hub_download`.

    Raises:
        CheckpointNotFoundError: There is none; the message lists what was expected.
        CheckpointError: It is a PyTorch pickle, or a folder with several checkpoints.
    """
    if files := find_local(source, subfolder):
        if files.are_pickles:
            raise CheckpointError(_pickle_advice(source, files.weights))
        return files
    name = os.fspath(source)
    if source == SMALL:
        return SourceFiles([BUNDLED / f"{SMALL}.safetensors"], None, "")
    if source in VARIANTS:
        try:
            return _download(f"{_HUB_OWNER}/{name}", subfolder, hub)
        except CheckpointNotFoundError as error:
            raise CheckpointNotFoundError(f"{error}{_path_hint(name)}") from error
    if Path(name).suffix.lower() in (".safetensors", *PICKLES):
        raise CheckpointNotFoundError(f"no such file: {name!r}")
    if _HUB_ID.fullmatch(name):
        return _download(name, subfolder, hub)
    close = difflib.get_close_matches(name.lower(), NAMES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise CheckpointNotFoundError(
        f"no checkpoint {name!r}: {hint}expected a file, a folder, a pair "
        f"{name}_encoder.safetensors and {name}_decoder.safetensors, a hub id 'owner/name', or one "
        f"of {', '.join(NAMES)}"
    )


def find_local(source: str | os.PathLike[str], subfolder: str = "") -> SourceFiles | None:
    """Find the files on disk that `source` stands for, PyTorch's too; None where there are none.

    A name of `NAMES` stands for that model and never for a path: "./taesd" or `Path("taesd")` does.

    Raises:
        CheckpointNotFoundError: It is a folder without a checkpoint, or no path.
        CheckpointError: It is a folder with several checkpoints.
    """
    if source in NAMES:
        return None
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _find_in_folder(path / subfolder)
        if path.is_file():
            return _with_config([path])
        for suffix in (".safetensors", ".pth"):
            pair = [p for name in COMPONENTS if (p := pair_file(path, name, suffix)).is_file()]
            if pair:
                return _with_config(pair)
        return None
    except CheckpointError:
        raise
    except (RuntimeError, OSError, ValueError) as error:  # the name is not a valid path
        raise CheckpointNotFoundError(f"no checkpoint {os.fspath(source)!r}: {error}") from error


def _download(repo: str, subfolder: str, hub: dict[str, Any]) -> SourceFiles:
    weights, config = download_checkpoint(repo, subfolder, hub)
    return SourceFiles(weights, config, variant_from_name(repo.split("/")[1]))


def pair_file(path: Path, component: Component, suffix: str) -> Path:
    """Return the file of one component of the pair that `path` stands for."""
    return path.with_name(f"{path.name}_{component}{suffix}")


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


def _find_in_folder(folder: Path) -> SourceFiles:
    for suffixes in ((".safetensors",), PICKLES):
        files = sorted(f for f in folder.glob("*") if f.suffix.lower() in suffixes)
        files = [f for f in files if f.stem == _DIFFUSERS_STEM] or files
        indices = sorted(folder.glob(f"*{_INDEX}"))
        if len(indices) == 1 and any(_SHARD.fullmatch(file.stem) for file in files):
            files = indices
        if len(files) == 1 or (len(files) == 2 and _pair_stem(files[0]) == _pair_stem(files[1])):
            source = _with_config(files)
            return source._replace(variant=source.variant or _variant_of_folder(folder))
        if files:
            names = ", ".join(file.name for file in files)
            raise CheckpointError(f"several checkpoints in {folder}: {names}; name one of them")
    raise CheckpointNotFoundError(
        f"no checkpoint in {folder}: expected {DIFFUSERS_FILE} or one *.safetensors"
    )


def _with_config(files: list[Path]) -> SourceFiles:
    """Return a file, a pair or the shards of an index with their config and variant."""
    stem = _pair_stem(files[0])
    variant = variant_from_name(stem)
    if stem.startswith(_DIFFUSERS_STEM):
        variant = variant or _variant_of_folder(files[0].parent)
    config = _config_beside(files[0])
    if files[0].name.endswith(_INDEX):
        return SourceFiles(_shards(files[0]), config, variant, are_shards=True)
    if match := _SHARD.fullmatch(stem):
        advice = f"load {match[1]}{_INDEX} with all shards beside it"
        if files[0].suffix != ".safetensors":
            advice = "take those in safetensors, PyTorch's are not read"
        raise CheckpointError(
            f"{files[0]} is one of {int(match[2])} shards, which is no model: {advice}"
        )
    return SourceFiles(files, config, variant)


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names; all of them lie beside it."""
    places = read_json(index).get("weight_map")
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or not all(isinstance(n, str) and n and Path(n).name == n for n in names):
        raise CheckpointError(f"{index}: expected a weight_map from tensors to files beside it")
    shards = [index.with_name(name) for name in sorted(set(names))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointNotFoundError(f"{index} needs {', '.join(missing[:3])} beside it")
    return shards


def _variant_of_folder(folder: Path) -> str:
    # A hub cache keeps a repository's files in models--OWNER--NAME/snapshots/COMMIT.
    path = folder.absolute().as_posix()
    repo = re.search(r"/models--[^/]+--([^/]+)/snapshots/", f"{path}/")
    return variant_from_name(repo[1] if repo else folder.absolute().name)


def _pair_stem(file: Path) -> str:
    return re.sub(r"_(encoder|decoder)$", "", file.stem)


def _config_beside(file: Path) -> Path | None:
    """Return the config.json in the folder of a file, if it is about this file."""
    config = file.with_name(CONFIG_FILE)
    if not config.is_file():
        return None
    if file.stem.startswith(_DIFFUSERS_STEM):
        return config
    try:
        is_ours = read_json(config).get("_class_name") == DIFFUSERS_CLASS
    except CheckpointError:
        is_ours = False
    return config if is_ours else None


def _path_hint(name: str) -> str:
    try:
        return f"; for the model on disk write ./{name}" if find_local(f"./{name}") else ""
    except CheckpointError:
        return ""


def _pickle_advice(source: str | os.PathLike[str], files: list[Path]) -> str:
    # No other tool reads a file of this name as its own.
    target = files[0].with_name(f"{_pair_stem(files[0])}-flax.safetensors")
    command = shlex.join(("taesd-jax", "convert", os.fspath(source), str(target)))
    return (
        f"{', '.join(map(str, files))}: a PyTorch pickle, which is not loaded here; with torch "
        f"installed run `{command}`, then load {target}"
    )

"""Where a checkpoint's files are: on disk or on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..config import VARIANTS
from ..errors import CheckpointError, CheckpointNotFoundError
from ..model.layers import COMPONENTS, Component
from .pins import PINS, check_file

DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"
PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pkl")
HUB_OWNER = "madebyollin"
# What the wheel carries: our own small model, heads of the published ones, and a photograph.
BUNDLED = Path(__file__).parents[1] / "bundled"
SMALL = "small"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Files(NamedTuple):
    """The files of one checkpoint.

    Attributes:
        weights: One file, or one for each component.
        config: The config.json beside them, if any.
        label: Name to tell variants of one architecture apart by; only a label.
    """

    weights: list[Path]
    config: Path | None
    label: str


def find_files(source: str | os.PathLike[str], *, subfolder: str | None = "", **hub: Any) -> Files:
    """Find the files that `source` stands for; what is on disk comes before the hub.

    Args:
        source: A file; `PATH` for `PATH_encoder.safetensors` and `PATH_decoder.safetensors`, of
            which one may be absent; a folder; a hub id "owner/name"; a variant's name; or "small",
            our own model, which the wheel carries.
        subfolder: Folder inside the folder or hub repository.
        **hub: Passed to `huggingface_hub.hf_hub_download`.

    Raises:
        CheckpointNotFoundError: There is none; says where it looked.
        CheckpointError: It is a PyTorch pickle, or a folder without a checkpoint.
    """
    try:
        return _find(os.fspath(source), subfolder or "", hub)
    except CheckpointError:
        raise
    except (RuntimeError, OSError, ValueError) as error:  # names that no file can have
        raise CheckpointNotFoundError(f"no checkpoint {source!r}: {error}") from error


def _find(name: str, subfolder: str, hub: dict[str, Any]) -> Files:
    path = Path(name).expanduser()
    is_folder, is_file = path.is_dir(), path.is_file()
    bundled = name == SMALL and not any(path.glob("*.safetensors"))
    if is_folder and not bundled:
        return _in_folder(path / subfolder)
    if path.suffix.lower() in PICKLES or pickles(path):
        if path.exists() or pickles(path):
            raise CheckpointError(
                f"{name} is a PyTorch pickle, which is not loaded here; with torch installed run "
                f"`taesd-jax convert {name} {path.with_suffix('')}.safetensors`"
            )
        raise CheckpointNotFoundError(f"no such file: {name}")
    if is_file:
        # Of a diffusers folder the config is beside it.
        config = path.with_name(CONFIG_FILE)
        known = path.name == DIFFUSERS_FILE and config.is_file()
        label = label_of(path.stem) or (known and label_of(path.parent.name)) or ""
        return Files([path], config if known else None, label)
    pair = [file for component in COMPONENTS if (file := pair_file(path, component)).is_file()]
    if pair:
        return Files(pair, None, label_of(path.name))
    if name == SMALL:
        return Files([BUNDLED / f"{SMALL}.safetensors"], None, "")
    if name in VARIANTS:
        return _on_hub(f"{HUB_OWNER}/{name}", subfolder, hub)
    looks_local = path.suffix == ".safetensors" or name.startswith((".", "/", "~", "\\"))
    if _HUB_ID.fullmatch(name) and not looks_local:
        return _on_hub(name, subfolder, hub)
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


def label_of(name: str) -> str:
    """Return the variant that a file or repository is named after, or "".

    >>> label_of("taesdxl_decoder"), label_of("my-model")
    ('taesdxl', '')
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((word for word in words if word in VARIANTS), "")


def _in_folder(folder: Path) -> Files:
    config = folder / CONFIG_FILE
    config = config if config.is_file() else None
    label = label_of(folder.name)
    if (weights := folder / DIFFUSERS_FILE).is_file():
        return Files([weights], config, label)
    found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if len(found) == 1:
        return Files(found, config, label_of(found[0].stem) or label)
    stems = {re.sub(r"_(encoder|decoder)$", "", file.stem) for file in found}
    if len(found) == 2 and len(stems) == 1:
        return Files(found, config, label_of(stems.pop()) or label)
    if not found:
        there = folder.glob("*") if folder.is_dir() else []
        torch = [file.name for file in there if file.suffix.lower() in PICKLES]
        more = f"; {', '.join(sorted(torch))} are PyTorch pickles, name one" if torch else ""
        raise CheckpointNotFoundError(
            f"no checkpoint in {folder}: expected {DIFFUSERS_FILE} or one *.safetensors{more}"
        )
    names = ", ".join(file.name for file in found)
    raise CheckpointError(f"several checkpoints in {folder}: {names}; name one of them")


def _on_hub(repo: str, subfolder: str, hub: dict[str, Any]) -> Files:
    name, pin = repo.split("/")[1], None
    if hub.get("revision") is None and (pin := PINS.get(repo)):
        hub = hub | {"revision": pin.revision}
    singles = [[DIFFUSERS_FILE], [f"{name}.safetensors"]]
    pair = [f"{name}_{component}.safetensors" for component in COMPONENTS]
    for group in (*singles, pair):
        weights: list[Path] = []
        for part in group:
            if file := _download(repo, part, subfolder, hub):
                weights.append(file)
                # All of one commit, though the branch may move in between.
                hub = hub | {"revision": _commit_of(file) or hub.get("revision")}
        if weights:
            config = None
            if group == [DIFFUSERS_FILE]:
                config = _download(repo, CONFIG_FILE, subfolder, hub)
                if not config and not _known_absent(repo, subfolder, hub):
                    raise CheckpointNotFoundError(
                        f"{repo} is in the local cache without its {CONFIG_FILE}: a download was "
                        f"cut; load it once with a network"
                    )
            for file in (*weights, *([config] if config else [])):
                check_file(file, pin)
            return Files(weights, config, label_of(name))
    where = f"{repo}/{subfolder}" if subfolder else repo
    offline = " in the local cache (offline)" if _offline(hub) else ""
    wanted = ", ".join((DIFFUSERS_FILE, f"{name}.safetensors", *pair))
    raise CheckpointNotFoundError(f"no checkpoint in {where}{offline}: expected one of {wanted}")


def _download(repo: str, file: str, subfolder: str, hub: dict[str, Any]) -> Path | None:
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, subfolder=subfolder or None, **hub))
    except errors.LocalEntryNotFoundError as error:
        if _offline(hub):
            return None
        raise CheckpointNotFoundError(
            f"{repo} is not in the local cache and the hub cannot be reached: {_first_line(error)}"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError as error:
        raise CheckpointNotFoundError(f"{repo} has no revision {hub.get('revision')!r}") from error
    except errors.GatedRepoError as error:
        raise CheckpointNotFoundError(
            f"{repo} is gated: ask for access on its page, then pass token="
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"no repository {repo} on the hub, or it is private: check the name, or pass token="
        ) from error
    except Exception as error:  # clients of other versions let through what their transport raises
        raise CheckpointError(f"{repo} cannot be downloaded: {_first_line(error)}") from error


def _commit_of(file: Path) -> str | None:
    """Return the commit whose file this is, as the cache's folders are named."""
    found = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", str(file))
    return found and found[1]


def _known_absent(repo: str, subfolder: str, hub: dict[str, Any]) -> bool:
    """Return whether a repository is known to have no config.json; with a network it is asked."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    file = f"{subfolder}/{CONFIG_FILE}" if subfolder else CONFIG_FILE
    options = {key: hub.get(key) for key in ("cache_dir", "revision")}
    noted = try_to_load_from_cache(repo, file, **options) is _CACHED_NO_EXIST
    return noted or not _offline(hub)


def _offline(hub: dict[str, Any]) -> bool:
    from huggingface_hub import constants

    return bool(hub.get("local_files_only") or constants.HF_HUB_OFFLINE)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

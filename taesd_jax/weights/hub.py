"""Checkpoints on the Hugging Face hub, downloaded through its client and its cache."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, CheckpointNotFoundError
from ..model.layers import COMPONENTS
from .files import CONFIG_FILE, DIFFUSERS_FILE

# Seconds in which the hub has to answer at all.
_TIMEOUT = 5


def download_checkpoint(
    repo: str, subfolder: str, options: dict[str, Any]
) -> tuple[list[Path], Path | None]:
    """Download a checkpoint's weights, one file or one for each component, and its config.json.

    All files are of one commit.

    Args:
        repo: "owner/name".
        subfolder: Folder inside the repository, or "".
        options: Passed to `huggingface_hub.hf_hub_download`.

    Raises:
        CheckpointNotFoundError: The repository or its checkpoint is missing or not accessible.
        CheckpointError: The download failed, or a file differs from its digest.
    """
    unreachable = "" if _is_offline(options) else _find_fault()
    if unreachable:
        options = options | {"local_files_only": True}
    name = repo.split("/")[1]
    pair = [f"{name}_{component}.safetensors" for component in COMPONENTS]
    for group in ([DIFFUSERS_FILE], [f"{name}.safetensors"], pair):
        weights: list[Path] = []
        for file in group:
            if path := _download(repo, file, subfolder, options):
                weights.append(path)
                # The branch may move between two downloads.
                options = options | {"revision": _commit_of(path) or options.get("revision")}
        if weights:
            config = None
            if group == [DIFFUSERS_FILE]:
                config = _download(repo, CONFIG_FILE, subfolder, options)
                if not config and not _has_no_config(repo, subfolder, options):
                    raise CheckpointNotFoundError(
                        f"{repo} is in the local cache without its {CONFIG_FILE}: a download was "
                        f"interrupted; load it once with a network"
                    )
            for path in (*weights, *([config] if config else [])):
                _check_cached(path)
            return weights, config
    if unreachable:
        raise CheckpointNotFoundError(
            f"{repo} is not in the local cache and the hub cannot be reached: {unreachable}"
        )
    where = f"{repo}/{subfolder}" if subfolder else repo
    offline = " in the local cache (offline)" if _is_offline(options) else ""
    expected = ", ".join((DIFFUSERS_FILE, f"{name}.safetensors", *pair))
    raise CheckpointNotFoundError(f"no checkpoint in {where}{offline}: expected one of {expected}")


def _download(repo: str, file: str, subfolder: str, options: dict[str, Any]) -> Path | None:
    """Return a file of a repository in the local cache, or None where the repository has none."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, subfolder=subfolder or None, **options))
    except errors.LocalEntryNotFoundError as error:
        if _is_offline(options):
            return None
        raise CheckpointNotFoundError(
            f"{repo} is not in the local cache and the hub cannot be reached: {_first_line(error)}"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{repo} has no revision {options.get('revision')!r}"
        ) from error
    except errors.GatedRepoError as error:
        raise CheckpointNotFoundError(
            f"{repo} is gated: ask for access on its page, then pass token="
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"no repository {repo} on the hub, or it is private: check the name, or pass token="
        ) from error
    except Exception as error:  # some versions of the client let their transport's errors through
        raise CheckpointError(f"{repo} cannot be downloaded: {_first_line(error)}") from error


def _check_cached(path: Path) -> None:
    """Raise CheckpointError where a file in the cache is not the one that the hub sent.

    The cache names a file by the hub's digest: SHA-256 of large files, git's SHA-1 of small ones.
    """
    expected = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        sha = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", expected):
        sha = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    else:
        return
    with path.open("rb") as file:
        while piece := file.read(2**20):
            sha.update(piece)
    if sha.hexdigest() != expected:
        raise CheckpointError(
            f"{path}: not what the hub sent, the digest differs: delete {path.resolve()} and "
            f"download it again"
        )


def _commit_of(file: Path) -> str | None:
    """Return the commit that a cached file belongs to, from its folder's name."""
    match = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", str(file))
    return match and match[1]


def _has_no_config(repo: str, subfolder: str, options: dict[str, Any]) -> bool:
    """Return whether a config.json that could not be downloaded is known not to exist."""
    from huggingface_hub import try_to_load_from_cache

    if not _is_offline(options):
        return True
    file = f"{subfolder}/{CONFIG_FILE}" if subfolder else CONFIG_FILE
    place = {key: options.get(key) for key in ("cache_dir", "revision")}
    # None says that the cache knows nothing of it; what it returns for "the hub has no such file"
    # is something else.
    return try_to_load_from_cache(repo, file, **place) is not None


def _find_fault() -> str:
    """Return why the hub cannot be reached, or "".

    Its client would retry for half a minute, with a line for each time.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception as error:  # the client's transport is requests or httpx, by its version
        reason: BaseException = error
        while reason.__context__:
            reason = reason.__context__
        return f"{constants.ENDPOINT}: {_first_line(reason) or type(reason).__name__}"
    return ""


def _is_offline(options: dict[str, Any]) -> bool:
    from huggingface_hub import constants

    return bool(options.get("local_files_only") or constants.HF_HUB_OFFLINE)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]

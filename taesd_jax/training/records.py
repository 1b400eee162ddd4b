"""What a training run writes beside its model: metadata, log and checkpoints."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import MediaFileError, TrainingError, one_line, warn
from ..io import files
from .run_options import Event
from .state import State

_CHECKPOINTS = "checkpoints"
_KEPT_CHECKPOINTS = 2  # if the newest is damaged, the other one serves


class Log:
    """A file of JSON objects, one a line; `progress` is called with each.

    A resumed training drops the lines after step `start`, which it repeats.
    """

    def __init__(self, path: Path, start: int, progress: Callable[[Event], object]):
        self._path, self._progress = path, progress
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        past = "".join(line + "\n" for line in lines if _is_past(line, start))
        files.write_files({path: past.encode()})

    def add(self, event: Event) -> None:
        """Write an event."""
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(event) + "\n")
        except OSError as error:  # that of a full disk names no file
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._progress(event)


def _is_past(line: str, start: int) -> bool:
    try:
        return json.loads(line)["step"] <= start
    except (json.JSONDecodeError, TypeError, KeyError):
        return False  # a kill cut it off


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of the training in a folder, newest first."""
    return sorted((folder / _CHECKPOINTS).glob("*.npz"), reverse=True)


def save_checkpoint(folder: Path, state: State) -> None:
    """Write a state, completely or not at all, and delete all but the last two."""
    leaves, buffer = jax.tree.leaves(state), io.BytesIO()
    np.savez(buffer, *leaves)
    path = folder / _CHECKPOINTS / f"{int(state.step):09}.npz"
    files.write_files({path: buffer.getvalue()})
    for old in (*path.parent.glob(".*.tmp"), *list_checkpoints(folder)[_KEPT_CHECKPOINTS:]):
        old.unlink()


def restore_checkpoint(folder: Path, initial: State) -> State:
    """Return the newest state that can be read, or `initial` where there is no checkpoint.

    A damaged checkpoint gives a warning, and the one before it is taken.

    Raises:
        TrainingError: None of them can be read.
    """
    leaves, structure = jax.tree.flatten(initial)
    paths, problem = list_checkpoints(folder), ""
    for path in paths:
        try:
            with files.reading(path):
                # A zip file with the checksums of its members, which are compared here.
                arrays = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
                stored = [arrays[f"arr_{i}"] for i in range(len(leaves))]
                if [x.shape for x in stored] != [x.shape for x in leaves]:
                    raise ValueError("its arrays have other shapes")
            # Copies: a step donates the memory of its state.
            return jax.tree.unflatten(structure, map(jnp.array, stored))
        except MediaFileError as error:
            problem = one_line(error)
            if path != paths[-1]:
                warn(f"{problem}; resuming from the one before")
    if paths:
        raise TrainingError(f"no checkpoint is whole: {problem}; delete {folder} to start anew")
    return initial


@contextlib.contextmanager
def locked(folder: Path, *, blocking: bool) -> Iterator[None]:
    """Create a folder and lock it, see `files.locked`.

    Raises:
        TrainingError: Another process has locked it, and `blocking` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder, blocking=blocking))
        except BlockingIOError as error:
            raise TrainingError(f"another process trains in {folder}") from error
        yield


def check_or_write_metadata(path: Path, metadata: dict[str, Any], *, kind: str) -> None:
    """Write what a folder holds as JSON, or check that a file says the same.

    Raises:
        TrainingError: The file cannot be read, or says something else; the message calls the
            folder's content `kind`.
    """
    metadata = json.loads(json.dumps(metadata))  # tuples become lists, as in the file
    if not path.exists():
        files.write_files({path: json.dumps(metadata, indent=1).encode()})
        return
    try:
        stored = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise TrainingError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(stored, dict):
        raise TrainingError(f"{path} must hold an object, got {type(stored).__name__}")
    differing = sorted(k for k in metadata | stored if metadata.get(k) != stored.get(k))
    if differing:
        raise TrainingError(
            f"{path.parent} has {kind} with other {', '.join(differing)}; name another folder"
        )

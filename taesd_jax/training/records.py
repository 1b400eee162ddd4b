"""What a training writes beside its model: metadata, log and checkpoints."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax

from ..errors import TrainingError, one_line
from ..io import files
from .run_options import Event
from .state import State


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
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")
        self._progress(event)


def _is_past(line: str, start: int) -> bool:
    try:
        return json.loads(line)["step"] <= start
    except (json.JSONDecodeError, TypeError, KeyError):
        return False  # a kill cut it off


class Checkpoints:
    """The last two states of a training; orbax writes each completely or not at all."""

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def restore(self, state: State) -> tuple[State, int]:
        """Return the newest state, of the shapes of `state`, and its step; else `state` and 0.

        Raises:
            TrainingError: The checkpoint is damaged.
        """
        start = self._manager.latest_step()
        if start is None:
            return state, 0
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, state)
        try:
            args = self._ocp.args.StandardRestore(abstract)
            return cast(State, self._manager.restore(start, args=args)), start
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise TrainingError(
                f"the checkpoint {self._manager.directory / str(start)} cannot be read "
                f"({one_line(error)}); delete that folder to resume from the one before"
            ) from error

    def save(self, number: int, state: State) -> None:
        """Write the state after a step."""
        self._manager.save(number, args=self._ocp.args.StandardSave(state))
        # Not in the background: the next step donates the memory of the state.
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Stop using the folder."""
        self._manager.close()


@contextlib.contextmanager
def locked(folder: Path, *, blocking: bool) -> Iterator[None]:
    """Create a folder and keep other processes out of it, where the system can.

    With `blocking` it waits for another process to leave.

    Raises:
        TrainingError: Another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder, blocking=blocking))
        except BlockingIOError as error:
            raise TrainingError(f"another process trains in {folder}") from error
        yield


def check_or_write_metadata(path: Path, metadata: dict[str, Any], *, resume: bool) -> None:
    """Write what a new training is, or check that the one in the folder is the same.

    Raises:
        TrainingError: The folder has a training that is another one or is not to be resumed.
    """
    folder = path.parent
    if not any((folder / "checkpoints").glob("[0-9]*")):
        write_metadata(path, metadata)
        return
    if not path.exists():
        raise TrainingError(f"{folder} has checkpoints but no {path.name}; name another folder")
    if not resume:
        raise TrainingError(f"{folder} has a training; resume it, or name another folder")
    if differing := differing_metadata(path, metadata):
        raise TrainingError(f"{folder} has a training with other {', '.join(differing)}")


def write_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Write a JSON object."""
    files.write_files({path: json.dumps(metadata, indent=1).encode()})


def differing_metadata(path: Path, metadata: dict[str, Any]) -> list[str]:
    """Name the entries that differ from those of a file, if it exists.

    Raises:
        TrainingError: The file cannot be read, or is not a JSON object.
    """
    if not path.exists():
        return []
    try:
        stored = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise TrainingError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(stored, dict):
        raise TrainingError(f"{path} must hold an object, got {type(stored).__name__}")
    metadata = json.loads(json.dumps(metadata))  # tuples become lists, as in the file
    return sorted(k for k in metadata | stored if metadata.get(k) != stored.get(k))

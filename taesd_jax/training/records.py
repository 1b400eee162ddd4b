"""What a training writes beside its model: what it is, its log and its checkpoints."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from ..errors import TrainingError, one_line
from ..io import files as storage
from ..io.files import write_files
from .state import State

Event = dict[str, Any]


class Log:
    """One JSON object a line; a resumed training drops the lines of steps that it makes again.

    Args:
        path: The file.
        start: Steps done; later lines are dropped.
        progress: Told of each event as well.
    """

    def __init__(self, path: Path, start: int, progress: Callable[[Event], object]):
        self._path, self._progress = path, progress
        kept = []
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                event = json.loads(line)
                if event["step"] <= start:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, TypeError, KeyError):
                continue  # cut by a kill
        write_files({path: "".join(kept).encode()})

    def add(self, event: Event) -> None:
        """Write an event."""
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")
        self._progress(event)


class Checkpoints:
    """The last two states of a training, each written whole or not at all, by orbax.

    Args:
        folder: Where they are.

    Raises:
        TrainingError: orbax is not installed.
    """

    def __init__(self, folder: Path):
        try:
            import orbax.checkpoint as ocp
        except ModuleNotFoundError as error:
            raise TrainingError(
                "training needs orbax-checkpoint: pip install 'taesd-jax[train]'"
            ) from error
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def restore(self, state: State) -> tuple[State, int]:
        """Return the newest state, of the shapes of `state`, and its step; else `state` and 0."""
        start = self._manager.latest_step()
        if start is None:
            return state, 0
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, state)
        try:
            found: Any = self._manager.restore(start, args=self._ocp.args.StandardRestore(abstract))
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise TrainingError(
                f"the checkpoint {self._manager.directory / str(start)} cannot be read "
                f"({one_line(error)}); delete that folder, and --resume goes on from the one before"
            ) from error
        return found, start

    def save(self, number: int, state: State) -> None:
        """Write the state behind a step."""
        self._manager.save(number, args=self._ocp.args.StandardSave(state))
        # Now, not in the background: the next step gives the state's memory back.
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep a folder to this process, where the system can.

    Args:
        folder: Made where it is not there.
        wait: Until another process has done with it; else that is an error.

    Raises:
        TrainingError: Another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.locked(folder, wait=wait))
        except BlockingIOError as error:
            raise TrainingError(f"another process trains in {folder}") from error
        yield


def read_facts(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        TrainingError: It is none.
    """
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise TrainingError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise TrainingError(f"{path} must hold an object, got {type(found).__name__}")
    return found


def claim(path: Path, facts: dict[str, Any], *, resume: bool) -> None:
    """Write down what is trained, or compare it with what is there.

    Args:
        path: The file.
        facts: JSON-ready; of a dict in it each entry is a fact.
        resume: Whether there may be a training.

    Raises:
        TrainingError: There is a training, and it is another one or not to be resumed.
    """
    facts = json.loads(json.dumps(facts))
    begun = any((path.parent / "checkpoints").glob("[0-9]*"))
    if not path.exists() or not begun:
        if begun:
            raise TrainingError(
                f"{path.parent} has checkpoints but no {path.name}; name another folder"
            )
        write_files({path: json.dumps(facts, indent=1).encode()})
        return
    if not resume:
        raise TrainingError(f"{path.parent} has a training; resume it, or name another folder")
    wanted, there = _flat(facts), _flat(read_facts(path))
    other = sorted(k for k in wanted | there if wanted.get(k) != there.get(k))
    if other:
        raise TrainingError(f"{path.parent} has a training with other {', '.join(other)}")


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in facts.items():
        found |= value if name == "recipe" else {name: value}
    return found

"""How a training runs, beside what it learns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jax.sharding import Mesh

from .recipe import Recipe

Event = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Describe how a training runs.

    Attributes:
        held_out: Image files to evaluate with.
        eval_size: Side in pixels that their largest central square is resized to.
        eval_every: Steps between evaluations, each with a sheet of samples and a checkpoint.
        log_every: Steps between lines of the log.
        teacher_cache: Folder for the teacher's results, if the recipe limits the number of crops;
            by default one in the training's folder. Runs with the same crops and teacher can share
            it.
        resume: Resume the training in the folder; "auto" starts one if there is none.
        mesh: Divides the batches over the devices of its first axis.
        progress: Called with each event of the log, and while the cache is filled.

    Raises:
        ValueError: A size or number of steps is below 1, or `resume` is something else.
    """

    held_out: Sequence[str | os.PathLike[str]] = ()
    eval_size: int = 256
    eval_every: int = 500
    log_every: int = 50
    teacher_cache: str | os.PathLike[str] | None = None
    resume: bool | Literal["auto"] = False
    mesh: Mesh | None = None
    progress: Callable[[Event], object] = lambda event: None

    def __post_init__(self):
        if self.resume not in (False, True, "auto"):
            raise ValueError(f"resume must be False, True or 'auto', got {self.resume!r}")
        for name in ("eval_size", "eval_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError unless a recipe can run like this."""
        devices = 1 if self.mesh is None else self.mesh.shape[self.mesh.axis_names[0]]
        if recipe.batch_size % devices:
            raise ValueError(
                f"batch_size must be a multiple of {devices} devices, got {recipe.batch_size}"
            )
        if self.teacher_cache and recipe.num_crops is None:
            raise ValueError("teacher_cache needs a number of crops: set num_crops (--num-crops)")

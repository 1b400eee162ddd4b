"""Train encoders and decoders; needs the extra `train`: pip install 'taesd-jax[train]'."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from ..errors import TrainingError
from .crops import list_images
from .recipe import Recipe
from .run_options import RunOptions

if TYPE_CHECKING:
    from .trainer import new_student, train

__all__ = ["Recipe", "RunOptions", "TrainingError", "list_images", "new_student", "train"]


# The rest needs no extra, so that the command can check its arguments without it.
def __getattr__(name: str) -> Any:
    if name not in ("new_student", "train"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in ("optax", "grain", "orbax"):
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"training needs {module}: pip install 'taesd-jax[train]'")
    from . import trainer

    return getattr(trainer, name)

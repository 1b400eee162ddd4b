"""The public names of `taesd_jax.training`."""

from ..errors import TrainingError
from ..io.listing import list_images
from .recipe import Recipe
from .registry import LOSSES
from .run_options import RunOptions
from .student import new_student
from .trainer import train

__all__ = [
    "LOSSES",
    "Recipe",
    "RunOptions",
    "TrainingError",
    "list_images",
    "new_student",
    "train",
]

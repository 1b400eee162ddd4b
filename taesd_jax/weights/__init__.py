"""Load and save checkpoints of every published layout; needs no torch and starts no backend."""

from .loading import Checkpoint, Part, assemble, load, missing_file
from .saving import Layout, save, serialise

__all__ = ["Checkpoint", "Layout", "Part", "assemble", "load", "missing_file", "save", "serialise"]

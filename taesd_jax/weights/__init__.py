"""Load and save checkpoints of every published layout; needs no torch and starts no backend."""

from .loading import Checkpoint, Part, assemble, load, missing_file
from .saving import Layout, save, serialise
from .thumbnail_files import add_heads, save_heads

__all__ = [
    "Checkpoint",
    "Layout",
    "Part",
    "add_heads",
    "assemble",
    "load",
    "missing_file",
    "save",
    "save_heads",
    "serialise",
]

"""Load and save checkpoints of every published layout; needs no torch and starts no backend."""

from .checkpoint import Checkpoint, Layout, assemble, load, missing_file, save, serialise

__all__ = ["Checkpoint", "Layout", "assemble", "load", "missing_file", "save", "serialise"]

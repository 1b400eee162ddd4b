"""Load and save checkpoints of every published format; needs no torch and starts no backend."""

from .assembly import Checkpoint, Part, assemble
from .loading import load
from .options import LoadOptions
from .saving import Format, save, serialise
from .sources import missing_file
from .thumbnail_files import add_thumbnails, save_thumbnails

__all__ = [
    "Checkpoint",
    "Format",
    "LoadOptions",
    "Part",
    "add_thumbnails",
    "assemble",
    "load",
    "missing_file",
    "save",
    "save_thumbnails",
    "serialise",
]

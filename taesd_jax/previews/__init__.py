"""Previews of a running sampler, and sinks that save or show them."""

from .sinks import SaveFrames, ShowInNotebook, ShowInTerminal, WriteAnimation
from .stream import PreviewStream, predict_x0

__all__ = [
    "PreviewStream",
    "SaveFrames",
    "ShowInNotebook",
    "ShowInTerminal",
    "WriteAnimation",
    "predict_x0",
]

"""Previews of a running sampler, and sinks that save or show them."""

from .prediction import predict_x0
from .sinks import SaveFrames, ShowInNotebook, ShowInTerminal, WriteAnimation
from .stream import PreviewStream

__all__ = [
    "PreviewStream",
    "SaveFrames",
    "ShowInNotebook",
    "ShowInTerminal",
    "WriteAnimation",
    "predict_x0",
]

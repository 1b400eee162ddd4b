"""Adapters for the pipelines of other libraries, one file each."""

from . import keras_hub, maxdiffusion
from .linen import FlaxAutoencoderTiny

__all__ = ["FlaxAutoencoderTiny", "keras_hub", "maxdiffusion"]

"""Adapters for the pipelines of other libraries, one file each."""

from .keras_hub import replace_vae
from .linen import FlaxAutoencoderTiny

__all__ = ["FlaxAutoencoderTiny", "replace_vae"]

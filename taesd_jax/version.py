"""The version of this package."""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("taesd-jax")
except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

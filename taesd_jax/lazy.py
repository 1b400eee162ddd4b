"""Packages whose public names are imported with the first one that is used: JAX takes a second."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def public_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that exports the names of its `public`."""

    def get(name: str) -> Any:
        if name == "__all__" or not name.startswith("__"):
            public = importlib.import_module(f"{package}.public")
            if name == "__all__" or name in public.__all__:
                setattr(sys.modules[package], name, value := getattr(public, name))
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*vars(sys.modules[package]), *get("__all__")})

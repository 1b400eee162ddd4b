"""The options of loading that are passed on from function to function."""

from __future__ import annotations

import os
from typing import TypedDict


class LoadOptions(TypedDict, total=False):
    """Where to look inside a folder or hub repository.

    Attributes:
        subfolder: Folder inside the folder or hub repository.
        revision: Branch, tag or commit of a hub repository.
        cache_dir: Folder of the hub's cache.
        local_files_only: Use only hub files that are already in the cache.
        token: Hub access token.
    """

    subfolder: str
    revision: str | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    token: str | bool | None

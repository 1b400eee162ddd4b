"""What is known of the published files, and whether a downloaded one is whole."""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError


class Pin(NamedTuple):
    """The state of a hub repository that its name alone stands for.

    Attributes:
        revision: Commit.
        digests: SHA-256 of each file, in hexadecimal.
    """

    revision: str
    digests: Mapping[str, str]


# None: not pinned, because no digest of the repository's files is known to us. The newest revision
# is loaded, and the hub's own digests alone say whether a file is whole.
PINS: Mapping[str, Pin | None] = types.MappingProxyType(
    {
        "madebyollin/taesd": None,
        "madebyollin/taesdxl": None,
        "madebyollin/taesd3": None,
        "madebyollin/taef1": None,
        "madebyollin/taef2": None,
        "madebyollin/taesana": None,
    }
)


def check_file(path: Path, pin: Pin | None) -> None:
    """Raise CheckpointError where a file in the hub's cache is not the one that was published.

    The cache names a file by the hub's digest: SHA-256 of large files, git's own of small ones.

    Args:
        path: As the hub's client gives it.
        pin: What its repository is pinned to, if it is.
    """
    name = path.resolve().name
    found = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % path.stat().st_size)}
    with path.open("rb") as file:
        while piece := file.read(2**20):
            for hashed in found.values():
                hashed.update(piece)
    found = {length: hashed.hexdigest() for length, hashed in found.items()}
    stated = name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None
    if stated and found[len(stated)] != stated:
        raise CheckpointError(
            f"{path}: not what the hub sent, the digest differs: delete {path.resolve()} and "
            f"download it again"
        )
    if pin and pin.digests.get(path.name) != found[64]:
        raise CheckpointError(
            f"{path}: not the published file, expected SHA-256 "
            f"{pin.digests.get(path.name, 'of no such file')}, got {found[64]}; name a revision to "
            f"load another state of the repository"
        )

"""Shards as tar files: NUMBER.npy and NUMBER.json a record, for webdataset."""

from __future__ import annotations

import io
import mmap
import tarfile
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from .records import Record, from_json, to_json

# Of the header's texts, those with this prefix are the data set's.
_PREFIX = "TAESD_JAX."


def write(path: Path, records: list[Record], metadata: dict[str, str]) -> None:
    """Write stored records, the metadata as the archive's; see `Format.write_shard`."""
    # Python cannot open an archive of headers only.
    headers = {_PREFIX + name: text for name, text in metadata.items() if records}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for i, record in enumerate(records):
            buffer = io.BytesIO()
            np.save(buffer, record.latent, allow_pickle=False)
            files = {"json": to_json(record).encode(), "npy": buffer.getvalue()}
            for suffix, content in files.items():
                # Of no owner and no date.
                member = tarfile.TarInfo(f"{i:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def open_shard(path: Path) -> tuple[dict[str, str], int, Callable[[int], Record]]:
    """Open a shard; see `Shard`."""
    with tarfile.open(path) as tar:
        members = [(member.offset_data, member.size) for member in tar]
        headers = tar.pax_headers
    metadata = {k.removeprefix(_PREFIX): v for k, v in headers.items() if k.startswith(_PREFIX)}
    with path.open("rb") as file:
        # Has no position, which threads and forked processes would share.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(index: int) -> Record:
        text, data = (
            content[offset : offset + size] for offset, size in members[2 * index : 2 * index + 2]
        )
        latent = np.load(io.BytesIO(data), allow_pickle=False)
        if latent.dtype.kind == "V":  # what np.save makes of bfloat16
            latent = latent.view(jnp.bfloat16)
        return from_json(text, latent)

    return metadata, len(members) // 2, read

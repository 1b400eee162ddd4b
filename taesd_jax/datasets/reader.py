"""Random access to the latents of a data set."""

from __future__ import annotations

import bisect
import itertools
import json
import operator
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import AutoencoderTinyConfig
from ..io.files import reading
from .formats import FORMATS, Shard
from .manifest import Manifest, read_manifest
from .records import Record, unpack

# Many systems let a process have 1,024 files open.
_MAX_OPEN = 512


def read(folder: str | os.PathLike[str], *, stored: bool = False) -> LatentDataset:
    """Open a data set that `taesd-jax encode-dataset` wrote.

    Args:
        folder: The data set.
        stored: Leave latents in their stored dtype. Of uint8, `low_high` holds the range.

    Raises:
        MediaFileError: It is not finished, or cannot be read.
    """
    return LatentDataset(Path(folder), read_manifest(Path(folder)), stored)


class LatentDataset:
    """A sequence of records, for loops and as a data source of grain.

    It may be pickled, and read by several threads or processes.

    Attributes:
        folder: Where it lies.
        manifest: What it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest, stored: bool):
        self.folder, self.manifest = folder, manifest
        self._stored = stored
        self._ends = list(itertools.accumulate(shard.records for shard in manifest.shards))
        self._open: OrderedDict[int, Shard] = OrderedDict()

    @property
    def config(self) -> AutoencoderTinyConfig:
        """The config of the model that made the latents."""
        return AutoencoderTinyConfig.from_dict(json.loads(self.manifest.metadata["config"]))

    def __len__(self) -> int:
        return self.manifest.records

    def __getitem__(self, index: int) -> Record:
        """Return a record; its latent is (h, w, z) float32, unless asked for as stored.

        Raises:
            IndexError: There is no such record.
            MediaFileError: Its shard cannot be read.
        """
        i = operator.index(index)
        i += len(self) if i < 0 else 0
        if not 0 <= i < len(self):
            raise IndexError(f"expected an index below {len(self)}, got {index}")
        number = bisect.bisect_right(self._ends, i)
        report = self.manifest.shards[number]
        shard = self._open_shard(number)
        with reading(self.folder / report.shard):
            record = shard.read(i - self._ends[number] + report.records)
        return record if self._stored else unpack(record)

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return LatentDataset, (self.folder, self.manifest, self._stored)

    def __repr__(self) -> str:
        return f"LatentDataset({str(self.folder)!r}, {len(self)} records)"

    def _open_shard(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            path = self.folder / self.manifest.shards[number].shard
            shard = self._open[number] = FORMATS[self.manifest.format].open_shard(path)
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return shard

"""The formats of shards, behind two functions."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..io.files import reading
from .records import Record


class Shard(NamedTuple):
    """A shard that is open for reading, by several threads at a time.

    Attributes:
        metadata: Of the data set.
        length: Number of records.
        read: Returns the stored record of an index.
    """

    metadata: dict[str, str]
    length: int
    read: Callable[[int], Record]


class Format(NamedTuple):
    """A format of shards.

    Attributes:
        suffix: Of file names.
        module: Has `write(path, records, metadata)`, for records in their stored dtype and with the
            same fields, and `open_shard(path)`, which returns the fields of `Shard`.
        package: What has to be installed for it.
    """

    suffix: str
    module: str
    package: str

    def write_shard(
        self,
        path: Path,
        records: Sequence[Record],
        *,
        metadata: Mapping[str, str],
        fields: Iterable[str] = (),
    ) -> None:
        """Write records to exactly `path`; the same records give the same bytes.

        Each record gets the fields that others have, as None.

        Args:
            path: A new file, which the caller syncs and renames.
            records: As `pack` returns them.
            metadata: Of the data set.
            fields: Names of fields that each record gets in any case.

        Raises:
            ModuleNotFoundError: The format needs a package that is not installed.
            ValueError: A field has a reserved name.
        """
        names = itertools.chain(fields, *(record.fields for record in records))
        empty = dict.fromkeys(names)
        records = [record._replace(fields=empty | record.fields) for record in records]
        self._module().write(path, records, dict(metadata))

    def open_shard(self, path: Path) -> Shard:
        """Open a shard for random access.

        Raises:
            ModuleNotFoundError: The format needs a package that is not installed.
            MediaFileError: The file cannot be read.
        """
        module = self._module()
        with reading(path):
            return Shard(*module.open_shard(path))

    def _module(self) -> Any:
        try:
            return importlib.import_module(f".{self.module}", __package__)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'{self.suffix} needs {self.package}: pip install "taesd-jax[datasets]"',
                name=error.name,
            ) from error


FORMATS = {
    "parquet": Format(".parquet", "parquet", "pyarrow"),
    "array_record": Format(".array_record", "array_records", "array_record"),
    "webdataset": Format(".tar", "tars", ""),
}

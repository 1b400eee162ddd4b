"""Shards as parquet files: one row a record, for pyarrow, polars and Hugging Face datasets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .records import Record, dump_json, from_bytes

# Read at once for a record of it: a megabyte or less of latents of 512x512 images.
_ROW_GROUP = 32
_COLUMNS = {
    "key": pa.string(),
    "latent": pa.binary(),  # little endian, of `shape` and `dtype`
    "shape": pa.list_(pa.int32()),
    "dtype": pa.string(),
    "low_high": pa.list_(pa.list_(pa.float32())),
    "image_size": pa.list_(pa.int32()),
    "crop": pa.list_(pa.int32()),
    "flipped": pa.bool_(),
}
# Readers of several files expect a column to have one type. Captions are the likeliest.
_OF_NOTHING = {pa.null(): pa.string(), pa.list_(pa.null()): pa.list_(pa.string())}


def write(path: Path, records: list[Record], metadata: dict[str, str]) -> None:
    """Write stored records; see `Format.write_shard`."""
    names = list(records[0].fields) if records else []
    if reserved := sorted(set(names) & set(_COLUMNS)):
        raise ValueError(f"fields must not have names of columns of the data set, got {reserved}")
    columns: dict[str, Any] = {
        "key": [r.key for r in records],
        "latent": [r.latent.tobytes() for r in records],
        "shape": [r.latent.shape for r in records],
        "dtype": [r.latent.dtype.name for r in records],
        "low_high": [None if r.low_high is None else r.low_high.tolist() for r in records],
        "image_size": [r.image_size for r in records],
        "crop": [r.crop for r in records],
        "flipped": [r.flipped for r in records],
    }
    arrays = {name: pa.array(column, _COLUMNS[name]) for name, column in columns.items()}
    arrays |= {name: _field([r.fields[name] for r in records]) for name in names}
    table = pa.table(arrays).replace_schema_metadata(metadata)
    with path.open("wb") as file:
        pq.write_table(
            table,
            file,
            row_group_size=_ROW_GROUP,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )


def _field(values: list[Any]) -> pa.Array:
    """Return a column of a field; values of several types become JSON."""
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        array = pa.array([None if value is None else dump_json(value) for value in values])
    return array.cast(_OF_NOTHING.get(array.type, array.type))


def open_shard(path: Path) -> tuple[dict[str, str], int, Callable[[int], Record]]:
    """Open a shard; see `Shard`."""
    file, lock = pq.ParquetFile(path, memory_map=True), threading.Lock()
    metadata = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
    cached: tuple[int, Any] = -1, None

    def read(index: int) -> Record:
        nonlocal cached
        group, row = divmod(index, _ROW_GROUP)
        with lock:
            if cached[0] != group:
                cached = group, file.read_row_group(group).combine_chunks()
            table = cached[1]
        values = {name: table.column(name)[row].as_py() for name in table.column_names}
        own = {name: values.pop(name) for name in _COLUMNS}
        own |= {name: tuple(own[name]) for name in ("image_size", "crop")}
        latent = from_bytes(own.pop("latent"), own.pop("dtype"), own.pop("shape"))
        if own["low_high"] is not None:
            own["low_high"] = np.array(own["low_high"], np.float32)
        return Record(latent=latent, fields=values, **own)

    return metadata, file.metadata.num_rows, read

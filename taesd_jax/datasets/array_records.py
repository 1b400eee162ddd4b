"""Shards as array_record files: a record is the bytes of a safetensors file, for grain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from .records import Record, from_bytes, from_json, to_json

# Every record is found and read on its own.
_WRITING = "group_size:1,zstd:1,max_parallelism:1"
_READING = "readahead_buffer_size:0,max_parallelism:0"
# safetensors writes several texts of its metadata in an order that changes.
_RECORD = "record"
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "U8": "uint8"}


def write(path: Path, records: list[Record], metadata: dict[str, str]) -> None:
    """Write stored records, the first one with the metadata; see `Format.write_shard`."""
    from safetensors.numpy import save

    writer = ArrayRecordWriter(str(path), _WRITING)
    for i, record in enumerate(records):
        text = to_json(record)
        if i == 0:
            text = json.dumps({"metadata": metadata}) + "\n" + text
        writer.write(save({"latent": record.latent}, metadata={_RECORD: text}))
    writer.close()


def open_shard(path: Path) -> tuple[dict[str, str], int, Callable[[int], Record]]:
    """Open a shard; see `Shard`."""
    reader = ArrayRecordReader(str(path), _READING)
    if not reader.ok():
        reader.read([0])  # raises what is wrong

    def parse(index: int) -> tuple[str, str, np.ndarray]:
        # safetensors: the header's length, the header, the array. Its reader for NumPy knows no
        # bfloat16.
        (data,) = reader.read([index])
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        array = header["latent"]
        latent = from_bytes(data[start:], _DTYPES[array["dtype"]], array["shape"])
        first, _, last = header["__metadata__"][_RECORD].rpartition("\n")
        return first, last, latent

    def read(index: int) -> Record:
        _, text, latent = parse(index)
        return from_json(text, latent)

    count = reader.num_records()
    metadata = json.loads(parse(0)[0])["metadata"] if count else {}
    return metadata, count, read

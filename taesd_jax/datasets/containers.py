"""Files of many pictures: webdataset tars, parquet and arrow tables, array_records."""

from __future__ import annotations

import functools
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import MediaFileError
from ..io.listing import IMAGE_SUFFIXES
from .locations import TEXTS, Stamp, join, open_file, stamp_of

# Suffix of a label, in webdataset's tars.
_CLASS = "cls"
_PARQUET = b"PAR1"
# Not more than one thread reads a table, which the others need too.
_READING = threading.Lock()


class Container(NamedTuple):
    """How a kind of container is listed and read.

    Attributes:
        members: Yields name and place of each picture of an opened file, given the name of a
            column or None. A place is JSON; a text says why what is left cannot be read.
        read: Returns the encoded picture and what travels along of a path, its root, a place and
            the name of a column or None.
    """

    members: Callable[[Any, str | None], Iterator[tuple[str, Any]]]
    read: Callable[[str, str, Any, str | None], tuple[bytes, dict[str, Any]]]


def to_field(suffix: str, data: bytes) -> Any:
    """Return the content of a file that travels along: text, a class as a number, or bytes.

    Raises:
        MediaFileError: A text is not UTF-8.
    """
    if suffix not in (*TEXTS, _CLASS):
        return data
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise MediaFileError(f"the .{suffix} that belongs to it is not UTF-8: {error}") from error
    return int(text) if suffix == _CLASS and text.isdecimal() else text


def _tar_members(stream: Any, _column: str | None) -> Iterator[tuple[str, Any]]:
    pictures, links, others, cut = [], [], {}, ""
    size = stamp_of(stream)[0]
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if not member.isreg():
                    if (member.islnk() or member.issym()) and _is_picture(member.name):
                        links.append((member.name, "it is a link within the tar"))
                    continue
                # As webdataset: what comes before the first dot of the name is the sample's.
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                place = [member.offset_data, member.size]
                if sum(place) > size:
                    cut = f"{member.name} is cut off"
                elif _is_picture(name):
                    pictures.append((member.name, folder + slash + stem, place))
                else:
                    others.setdefault(folder + slash + stem, {})[suffix] = place
        # tarfile takes every block that is no header for the end, which has zeros.
        stream.seek(tar.offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0") or len(block) % tarfile.BLOCKSIZE:
            cut = f"no header at byte {tar.offset}"
    except tarfile.TarError as error:
        cut = str(error)
    for name, sample, place in pictures:
        yield name, others.get(sample, {}) | {"": place}
    yield from links
    if cut:
        yield "(the rest)", f"the tar ends too early: {cut}"


def _is_picture(name: str) -> bool:
    return os.path.splitext(name.lower())[1] in IMAGE_SUFFIXES


def _read_tar(path: str, _root: str, places: Any, _: str | None) -> tuple[bytes, dict[str, Any]]:
    contents = {}
    with open_file(path) as stream:
        for suffix, (offset, size) in places.items():
            stream.seek(offset)
            contents[suffix] = stream.read(size)
    return contents.pop(""), {suffix: to_field(suffix, data) for suffix, data in contents.items()}


def _parquet_members(stream: Any, column: str | None) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream)
    _image_column(file.schema_arrow, column)
    groups = range(file.metadata.num_row_groups)
    yield from _rows(file.metadata.row_group(group).num_rows for group in groups)


def _arrow_members(stream: Any, column: str | None) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa

    batches = pa.ipc.open_stream(stream)
    _image_column(batches.schema, column)
    yield from _rows([sum(batch.num_rows for batch in batches)])


def _rows(counts: Iterable[int]) -> Iterator[tuple[str, Any]]:
    first = 0
    for group, count in enumerate(counts):
        for row in range(count):
            yield f"{first + row:09}", [group, row]
        first += count


def _read_row(path: str, root: str, place: Any, column: str | None) -> tuple[bytes, dict[str, Any]]:
    group, row = place
    with _READING:
        with open_file(path) as stream:
            stamp = stamp_of(stream)
        table = _read_group(path, stamp, group)
    column = _image_column(table.schema, column)
    values = {name: _plain(table.column(name)[row].as_py()) for name in table.column_names}
    picture = values.pop(column)
    if picture is None:
        # Hugging Face datasets may hold only the path of a picture.
        name = (table.column(column)[row].as_py() or {}).get("path")
        if not name:
            raise MediaFileError(f"column {column!r} is null")
        with open_file(name if os.path.isabs(name) else join(root, name)) as stream:
            picture = stream.read()
    return picture, values


@functools.lru_cache(maxsize=2)
def _read_group(path: str, stamp: Stamp, group: int) -> Any:
    """Return the table of a row group; of the file as it was, which `stamp` tells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(path) as stream:
        if stream.read(len(_PARQUET)) == _PARQUET:
            return pq.ParquetFile(stream).read_row_group(group).combine_chunks()
        stream.seek(0)
        return pa.ipc.open_stream(pa.memory_map(path) if stamp[1] else stream).read_all()


def _image_column(schema: Any, column: str | None) -> str:
    import pyarrow as pa

    def may_hold_pictures(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    names = [field.name for field in schema if may_hold_pictures(field.type)]
    if column in names or (column is None and len(names) == 1):
        return column or names[0]
    raise MediaFileError(
        f"expected the image column to be one of {names}, got {column!r}"
        if names
        else f"no column holds encoded pictures, of {schema.names}"
    )


def _plain(value: Any) -> Any:
    """Return a value as it is, a picture's bytes, or JSON of what a record cannot hold."""
    if isinstance(value, dict) and "bytes" in value:
        return value["bytes"]
    single = str | int | float | bool | bytes | None
    if isinstance(value, single) or (
        isinstance(value, list) and all(isinstance(each, single) for each in value)
    ):
        return value
    return json.dumps(value, default=str)


def _record_members(stream: Any, _: str | None) -> Iterator[tuple[str, Any]]:
    for i in range(_open_records(stream.name).num_records()):
        yield f"{i:09}", i


def _read_record(path: str, _root: str, i: Any, _: str | None) -> tuple[bytes, dict[str, Any]]:
    return _open_records(path).read([i])[0], {}


def _open_records(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")


_RECORDS = Container(_record_members, _read_record)
CONTAINERS = {
    ".tar": Container(_tar_members, _read_tar),
    ".parquet": Container(_parquet_members, _read_row),
    ".arrow": Container(_arrow_members, _read_row),
    ".array_record": _RECORDS,
    ".arrayrecord": _RECORDS,
}

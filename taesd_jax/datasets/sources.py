"""The inputs of a data set: listed, and read one by one."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import MediaFileError, describe_error
from ..io.listing import IMAGE_SUFFIXES
from .containers import CONTAINERS, to_field
from .locations import TEXTS, Stamp, find_files, join, open_file, stamp_of
from .records import Record

_ONE_OF_MANY = re.compile(r"-\d+-of-\d+$")
# Columns of the data set that is written; a source's are renamed.
_RESERVED = {*Record._fields, "shape", "dtype"}


class Item(NamedTuple):
    """One input.

    Attributes:
        key: Unique in the data set, valid Unicode.
        path: File that holds it, within the source's root.
        stamp: Of that file.
        place: Where it is in a container; of a picture's own file, the stamps of the files that
            travel along, by suffix; or a text that says why it cannot be read.
    """

    key: str
    path: str
    stamp: Stamp
    place: Any


def list_items(source: str, *, image_column: str | None = None) -> tuple[str, list[Item]]:
    """List the inputs of a source, sorted by key, after the root of their paths.

    What cannot be read is an input too, so that nothing is lost silently.

    Args:
        source: Folder, file or glob pattern, also remote: of pictures, or of webdataset tars,
            parquet or arrow tables, or array_records of encoded pictures.
        image_column: Of tables; by default the only one that may hold pictures.

    Raises:
        MediaFileError: There are no inputs, pictures and containers are mixed, or a table has no
            such column.
        ModuleNotFoundError: Reading it needs a package that is not installed.
    """
    root, files = find_files(source)
    suffixes = {name: _suffix(name) for name in sorted(files)}
    pictures = [name for name, suffix in suffixes.items() if suffix in IMAGE_SUFFIXES]
    containers = [name for name, suffix in suffixes.items() if suffix in CONTAINERS]
    if pictures and containers:
        raise MediaFileError(
            f"{source}: expected pictures or containers, got {pictures[0]} and {containers[0]}; "
            f"name one kind by a pattern that ends with its suffix"
        )
    items = [_file_item(name, files, root) for name in pictures]
    for name in containers:
        items += _container_items(name, files[name], root, suffixes[name], image_column)
    if not items:
        raise MediaFileError(
            f"no pictures in {source!r}; their files end with {', '.join(IMAGE_SUFFIXES)}, those "
            f"of many with {', '.join(CONTAINERS)}"
        )
    return root, _with_unique_keys(items)


def read_item(root: str, item: Item, *, image_column: str | None) -> tuple[bytes, dict[str, Any]]:
    """Return the encoded picture of an input and what travels along with it.

    Raises:
        MediaFileError: It changed since it was listed, or could not be listed.
        OSError: It cannot be read.
    """
    if isinstance(item.place, str):
        raise MediaFileError(item.place)
    if container := CONTAINERS.get(_suffix(item.path)):
        full = join(root, item.path)
        with open_file(full) as stream:
            _check_unchanged(item.path, stream, item.stamp)
        data, fields = container.read(full, root, item.place, image_column)
    else:
        data, stem = _read_unchanged(root, item.path, item.stamp), posixpath.splitext(item.path)[0]
        fields = {
            suffix: to_field(suffix, _read_unchanged(root, f"{stem}.{suffix}", stamp))
            for suffix, stamp in item.place.items()
        }
    return data, {_field_name(name): value for name, value in fields.items()}


def field_names(items: Iterable[Item]) -> tuple[str, ...]:
    """Return the names of the files that travel along with some of the inputs, sorted."""
    places = (item.place for item in items if isinstance(item.place, dict))
    return tuple(sorted({_field_name(name) for place in places for name in place if name}))


def _field_name(name: str) -> str:
    return f"source_{name}" if name in _RESERVED else name


def _suffix(name: str) -> str:
    """Return the suffix of a file, also of one of several: .array_record-00000-of-00002."""
    return posixpath.splitext(_ONE_OF_MANY.sub("", name))[1].lower()


def _read_unchanged(root: str, name: str, stamp: Stamp) -> bytes:
    with open_file(join(root, name)) as stream:
        _check_unchanged(name, stream, stamp)
        return stream.read()


def _check_unchanged(name: str, stream: Any, stamp: Stamp) -> None:
    if stamp_of(stream) != tuple(stamp):
        raise MediaFileError(f"{name}: changed since the inputs were listed")


def _file_item(name: str, files: dict[str, Stamp | str], root: str) -> Item:
    stamp = files[name]
    if isinstance(stamp, str):
        return Item(name, name, (0, 0), stamp)
    stem = posixpath.splitext(name)[0]
    beside = {suffix: files.get(f"{stem}.{suffix}") for suffix in TEXTS}
    return Item(name, name, stamp, {suffix: at for suffix, at in beside.items() if at is not None})


def _container_items(
    name: str, stamp: Stamp | str, root: str, suffix: str, image_column: str | None
) -> list[Item]:
    if isinstance(stamp, str):
        return [Item(name, name, (0, 0), stamp)]
    items = []
    try:
        with open_file(join(root, name)) as stream:
            for member, place in CONTAINERS[suffix].members(stream, image_column):
                items.append(Item(f"{name}/{member}", name, stamp, place))
    except (ImportError, MediaFileError):
        raise
    except Exception as error:  # pyarrow and array_record raise every kind on damaged files
        items.append(Item(name, name, stamp, f"cannot be listed: {describe_error(error)}"))
    return items


def _with_unique_keys(items: list[Item]) -> list[Item]:
    """Sort by key; bytes that are no text are escaped, and a repeated key is numbered."""
    unique: dict[str, Item] = {}
    for item in sorted(items, key=lambda item: item.key):
        key = text = item.key.encode(errors="surrogateescape").decode(errors="backslashreplace")
        count = 1
        while key in unique:
            key = f"{text}#{(count := count + 1)}"
        unique[key] = item._replace(key=key)
    return [unique[key] for key in sorted(unique)]

"""What lies beside the shards of a data set: a report on each, the failures, and the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import MediaFileError
from ..io.files import reading, write_files
from .formats import FORMATS, Format

MANIFEST_FILE = "manifest.json"
FAILURES_FILE = "failures.jsonl"
_VERSION = 1


class Failure(NamedTuple):
    """An input that is in no shard, and why."""

    key: str
    reason: str


class ShardReport(NamedTuple):
    """What became of the inputs of a shard.

    Attributes:
        shard: Name of its file.
        sha256: Digest of the file.
        size: Bytes of the file.
        records: Number of records, of which a flipped input has two.
        inputs: Number of inputs, those that failed included.
        failures: The inputs that failed.
        seconds: That the work took; the only figure that another run changes.
    """

    shard: str
    sha256: str
    size: int
    records: int
    inputs: int
    failures: tuple[Failure, ...]
    seconds: float = 0.0


class Manifest(NamedTuple):
    """A finished data set.

    Attributes:
        fingerprint: Digest of the model, the settings and the inputs.
        format: One of `FORMATS`.
        metadata: That of every shard.
        shards: A report a shard, without seconds.
    """

    fingerprint: str
    format: str
    metadata: dict[str, str]
    shards: tuple[ShardReport, ...]

    @property
    def records(self) -> int:
        """Number of records of all shards."""
        return sum(report.records for report in self.shards)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The inputs that are in no shard."""
        return tuple(failure for report in self.shards for failure in report.failures)


def shard_path(folder: Path, index: int, format: Format) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{index:05}{format.suffix}"


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_report(path: Path, report: ShardReport) -> None:
    """Write the report on a shard, which has been renamed to `path`, beside it."""
    failures = [failure._asdict() for failure in report.failures]
    _write_json(path.with_suffix(".json"), report._asdict() | {"failures": failures})


def read_report(path: Path) -> ShardReport | None:
    """Return the report on the shard `path`, or None while it is not finished.

    It is finished if the report names the file and its size. `check-dataset` compares digests.
    """
    try:
        report = _to_report(json.loads(path.with_suffix(".json").read_text()))
        return report if (report.shard, report.size) == (path.name, path.stat().st_size) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None  # none, or cut off by a kill of a system that lost its name


def write_manifest(
    folder: Path,
    *,
    fingerprint: str,
    format: str,
    metadata: Mapping[str, str],
    reports: Sequence[ShardReport],
) -> Manifest:
    """Write `failures.jsonl` and, as the last file of a data set, `manifest.json`."""
    shards = tuple(report._replace(seconds=0.0) for report in reports)
    manifest = Manifest(fingerprint, format, dict(metadata), shards)
    lines = [json.dumps(failure._asdict()) + "\n" for failure in manifest.failures]
    write_files({folder / FAILURES_FILE: "".join(lines).encode()})
    rows = [report._asdict() | {"failures": len(report.failures)} for report in shards]
    for row in rows:
        del row["seconds"]
    content = {
        "version": _VERSION,
        "fingerprint": fingerprint,
        "format": format,
        "records": manifest.records,
        "inputs": sum(report.inputs for report in shards),
        "failures": len(manifest.failures),
        "metadata": manifest.metadata,
        "shards": rows,
    }
    _write_json(folder / MANIFEST_FILE, content)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a finished data set.

    Raises:
        MediaFileError: There is none, it cannot be read, or a later version wrote it.
    """
    path = folder / MANIFEST_FILE
    if folder.is_dir() and not path.exists():
        raise MediaFileError(
            f"{folder}: has no {MANIFEST_FILE}, so it is no finished data set; run the "
            f"encode-dataset that began it again, which makes what is missing"
        )
    with reading(path):
        content = json.loads(path.read_text())
        if content["version"] != _VERSION:
            raise ValueError(f"expected version {_VERSION}, got {content['version']}")
        if content["format"] not in FORMATS:
            raise ValueError(f"expected format {', '.join(FORMATS)}, got {content['format']!r}")
        rows = content["shards"]
    with reading(folder / FAILURES_FILE):
        lines = (folder / FAILURES_FILE).read_text().splitlines()
        failures = iter([json.loads(line) for line in lines])
        shards = []
        for row in rows:
            own = [next(failures) for _ in range(row["failures"])]
            shards.append(_to_report(row | {"failures": own}))
    return Manifest(content["fingerprint"], content["format"], content["metadata"], tuple(shards))


def _to_report(content: dict[str, Any]) -> ShardReport:
    failures = tuple(Failure(**failure) for failure in content["failures"])
    return ShardReport(**content)._replace(failures=failures)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_files({path: (json.dumps(content, indent=1) + "\n").encode()})

"""Whether a data set is whole: digests, counts, and every input exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import MediaFileError
from .formats import FORMATS
from .manifest import Manifest, ShardReport, digest_file, read_manifest


def check(folder: Path, planned: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield what is wrong with a finished data set, a line each.

    Args:
        folder: The data set.
        planned: The keys of the inputs of each shard.

    Raises:
        MediaFileError: It is not finished, or its manifest cannot be read.
    """
    manifest = read_manifest(folder)
    if len(planned) != len(manifest.shards):
        yield f"the plan has {len(planned)} shards, the manifest {len(manifest.shards)}"
        return
    for key, times in Counter(key for keys in planned for key in keys).items():
        if times > 1:
            yield f"{key}: {times} times in the plan"
    for keys, report in zip(planned, manifest.shards, strict=True):
        try:
            for problem in _check_shard(folder, manifest, report, set(keys)):
                yield f"{report.shard}: {problem}"
        except MediaFileError as error:
            yield str(error)
    names = {report.shard for report in manifest.shards}
    for path in sorted(folder.glob(f"shard-*{FORMATS[manifest.format].suffix}")):
        if path.name not in names:
            yield f"{path.name}: not in the manifest"


def _check_shard(
    folder: Path, manifest: Manifest, report: ShardReport, planned: set[str]
) -> Iterator[str]:
    path = folder / report.shard
    if not path.exists():
        yield "missing"
        return
    if digest_file(path) != report.sha256:
        yield "its bytes are not those that were written"
        return
    shard = FORMATS[manifest.format].open_shard(path)
    if shard.length and shard.metadata != manifest.metadata:
        yield "its metadata differ from the manifest's"
    if shard.length != report.records:
        yield f"{shard.length} records, where the manifest says {report.records}"
    records = map(shard.read, range(shard.length))
    yield from _check_keys(Counter((r.key, r.flipped) for r in records), report, planned)


def _check_keys(
    records: Counter[tuple[str, bool]], report: ShardReport, planned: set[str]
) -> Iterator[str]:
    """Compare the keys of records, with `flipped`, with those of the plan and the failures."""
    stored, failed = Counter(key for key, _ in records), {f.key for f in report.failures}
    for (key, _), times in records.items():
        if times > 1:
            yield f"{key}: {times} times"
    copies = max(stored.values(), default=0)  # 2 in a data set of flipped images
    for key in sorted({*planned, *stored, *failed}):
        if key not in planned:
            yield f"{key}: not in the plan of this shard"
        elif key in failed and key in stored:
            yield f"{key}: a record as well as a failure"
        elif key not in failed and key not in stored:
            yield f"{key}: neither a record nor a failure"
        elif key in stored and stored[key] != copies:
            yield f"{key}: {stored[key]} of {copies} records"

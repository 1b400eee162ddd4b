"""Shards as files: written, synced, renamed and reported; the last one brings the manifest."""

from __future__ import annotations

import os
import secrets
from typing import Any, NamedTuple

from ..io.files import naming
from .formats import FORMATS
from .manifest import (
    Failure,
    Manifest,
    ShardReport,
    digest_file,
    read_report,
    write_manifest,
    write_report,
)
from .plan import Plan
from .records import Record


class Encoded(NamedTuple):
    """What became of the inputs of a shard; records are in the order of the plan."""

    records: list[Record]
    failures: list[Failure]
    inputs: int
    seconds: float


def write_shard(plan: Plan, index: int, encoded: Encoded) -> ShardReport:
    """Write a shard to a temporary file, rename it, and write the report that it is finished.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    path = plan.shard_path(index)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp")
    format = FORMATS[plan.settings["format"]]
    try:
        with naming(path):
            format.write_shard(
                temporary, encoded.records, metadata=plan.metadata, fields=plan.fields
            )
            _sync(temporary)
            report = ShardReport(
                path.name,
                digest_file(temporary),
                temporary.stat().st_size,
                len(encoded.records),
                encoded.inputs,
                tuple(encoded.failures),
                round(encoded.seconds, 3),
            )
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    write_report(path, report)
    return report


def finish(plan: Plan) -> Manifest | None:
    """Write `failures.jsonl` and `manifest.json`, or return None while shards are missing."""
    reports = [read_report(plan.shard_path(index)) for index in range(plan.shards)]
    finished = [report for report in reports if report]
    if len(finished) < len(reports):
        return None
    remove_temporaries(plan)
    return write_manifest(
        plan.folder,
        fingerprint=plan.fingerprint,
        format=plan.settings["format"],
        metadata=plan.metadata,
        reports=finished,
    )


def remove_temporaries(plan: Plan) -> None:
    """Remove what processes that were killed have left of shards."""
    for left in plan.folder.glob(".shard-*.tmp"):
        left.unlink(missing_ok=True)


def _sync(path: Any) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

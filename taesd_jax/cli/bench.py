"""`taesd-jax bench`."""

from __future__ import annotations

import argparse
import datetime
import importlib
import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from ..config import VARIANTS
from ..errors import CheckpointError
from ..io.files import write_files
from . import measurement as bench
from .options import convert_package

PEERS = ("eager", "channels_last", "compile", "onnxruntime", "openvino")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table for each case, and write JSON and a plot if asked to."""
    for name, size in itertools.product(args.variants, args.sizes):
        if size % (factor := VARIANTS[name].spatial_factor):
            raise ValueError(f"sizes must be multiples of {factor} for {name}, got {size}")
    threads = bench.set_threads(args.threads)
    make_peer = _make_peer()
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "threads": threads,
        "rounds": args.rounds,
        "weights": "random",
        **bench.describe_machine(),
        "cases": [],
    }
    print(f"{report['cpu']}, {threads} threads, {report['device']}, {report['date']}")
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    for name, half, size, batch, dtype in itertools.product(
        args.variants, args.halves, args.sizes, args.batch, args.dtypes
    ):
        case = bench.Case(VARIANTS[name], half, size, batch, dtype, threads)
        peers = PEERS if "all" in args.peers else [p for p in args.peers if p != "none"]
        names = [bench.OURS, *peers]
        if args.plans:
            names = [bench.OURS, *bench.plans_of(half, case.config)]
        rows = bench.measure(
            names,
            case,
            rounds=args.rounds,
            make_peer=make_peer,
            peaks=args.peaks,
            progress=_show if sys.stderr.isatty() else lambda line: None,
        )
        entry = {
            "variant": name,
            "half": half,
            "size": size,
            "batch": batch,
            "dtype": dtype,
            "whole": bench.count_whole(case),
            "runs": [_json(row) for row in rows],
        }
        report["cases"].append(entry)
        print("\n" + _table(entry, rows), flush=True)
    if args.overhead:
        report["overhead"] = bench.call_overhead()
        text = "call overhead: vae.decode {vae_us:.0f} us, bare compiled call {bare_us:.0f} us"
        print("\n" + text.format(**report["overhead"]))
    if args.json:
        write_files({Path(args.json): (json.dumps(report, indent=2) + "\n").encode()})
    if args.plot:
        _plot(report, Path(args.plot))
    return 0


def _make_peer() -> Any:
    try:
        package = convert_package()
    except CheckpointError:
        return None
    return importlib.import_module(f"{package.__name__}.peers").make_peer


def _show(line: str) -> None:
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _json(row: bench.Measured) -> dict[str, Any]:
    fields = row._asdict()
    if row.seconds:
        fields["median_s"], fields["best_s"] = row.median_s, min(row.seconds)
    return fields


def _table(entry: dict[str, Any], rows: list[bench.Measured]) -> str:
    whole = entry["whole"]
    lines = [
        "{variant} {half}, {size}x{size}, batch {batch}, {dtype}: ".format(**entry)
        + "whole {gflop:.1f} GFLOP, {temporary_mb:,.0f} MB of temporaries by XLA's count".format(
            **whole
        ),
        f"{'':14}{'median':>9}{'best':>9}{'MP/s':>7}{'ratio':>7}{'first':>9}{'peak':>9}{'error':>9}",
    ]
    ours = rows[0].median_s
    for row in rows:
        if row.note:
            lines.append(f"{row.name:14}{row.note}")
            continue
        pixels = entry["batch"] * entry["size"] ** 2 / 1e6
        peak = "" if row.peak_mb is None else f"{row.peak_mb:,.0f} MB"
        lines.append(
            f"{row.name:14}{row.median_s:>7.3f} s{min(row.seconds):>7.3f} s"
            f"{pixels / row.median_s:>7.2f}{row.median_s / ours:>7.2f}{row.first_s:>7.1f} s"
            f"{peak:>9}{row.max_error:>9.0e}"
        )
    return "\n".join(lines)


def _plot(report: dict[str, Any], path: Path) -> None:
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError("--plot needs matplotlib: pip install 'taesd-jax[bench]'") from error
    cases = report["cases"]
    figure = Figure(figsize=(8, 2 + 1.6 * len(cases)), layout="constrained")
    for axes, case in zip(figure.subplots(len(cases), squeeze=False)[:, 0], cases, strict=True):
        runs = [row for row in case["runs"] if row["seconds"]][::-1]
        axes.barh([row["name"] for row in runs], [row["median_s"] for row in runs])
        axes.set_title("{variant} {half}, {size}x{size}, batch {batch}, {dtype}".format(**case))
        axes.set_xlabel("seconds, median")
    kind = Path(path).suffix.removeprefix(".") or "png"
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120)
    write_files({Path(path): buffer.getvalue()})

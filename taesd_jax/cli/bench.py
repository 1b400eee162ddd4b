"""The command `taesd-jax bench`."""

from __future__ import annotations

import argparse
import datetime
import importlib
import io
import itertools
import sys
from pathlib import Path
from typing import Any

from ..config import VARIANTS
from ..errors import CheckpointError, UsageError
from ..io.files import write_files
from .arguments.bench import PEERS
from .counts import Limits, count_full, describe_machine, measure_limits
from .measurement import Measured, call_overhead, measure, set_threads
from .options import convert_package
from .outputs import check_outputs, write_json
from .runners import OURS, Case, default_names, strategies_of


def run_bench(args: argparse.Namespace) -> int:
    """Measure speed and memory next to PyTorch, ONNX Runtime and OpenVINO."""
    for name, size in itertools.product(args.variants, args.sizes):
        if size % (factor := VARIANTS[name].spatial_factor):
            raise UsageError(f"sizes must be multiples of {factor} for {name}, got {size}")
    check_outputs(args, [args.json, args.plot])
    if args.plot:
        _make_figure(Path(args.plot), 1)
    threads = set_threads(args.threads)
    limits = {dtype: measure_limits(dtype) for dtype in args.dtypes}
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "threads": threads,
        "rounds": args.rounds,
        "weights": "random",
        "limits": {dtype: limit._asdict() for dtype, limit in limits.items()},
        **describe_machine(),
        "cases": [],
    }
    print(f"{report['cpu']}, {threads} threads, {report['device']}, {report['date']}")
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    for dtype, (tflops, gb_per_s) in limits.items():
        print(f"{dtype}: matrix product {tflops:.3g} TFLOP/s, copy {gb_per_s:,.0f} GB/s")
    for name, component, size, batch, dtype in itertools.product(
        args.variants, args.components, args.sizes, args.batch, args.dtypes
    ):
        case = Case(VARIANTS[name], component, size, batch, dtype, threads)
        entry, rows = _run_case(name, case, args)
        report["cases"].append(entry)
        print("\n" + _table(entry, rows, limits[dtype]), flush=True)
    if args.overhead:
        report["overhead"] = call_overhead()
        text = "call overhead: vae.decode {vae_us:.0f} us, bare compiled call {bare_us:.0f} us"
        print("\n" + text.format(**report["overhead"]))
    if args.json:
        write_json(args, args.json, report)
    if args.plot:
        _plot(report, Path(args.plot))
    return 0


def _run_case(
    variant: str, case: Case, args: argparse.Namespace
) -> tuple[dict[str, Any], list[Measured]]:
    peers = PEERS if "all" in args.peers else [p for p in args.peers if p != "none"]
    rows = measure(
        [OURS, *strategies_of(case.component, case.config)]
        if args.strategies
        else [*default_names(case), *peers],
        case,
        rounds=args.rounds,
        make_peer=_make_peer(),
        peaks=args.peaks,
        progress=_show if sys.stderr.isatty() else lambda line: None,
    )
    entry = {
        "variant": variant,
        "component": case.component,
        "size": case.size,
        "batch": case.batch,
        "dtype": case.dtype,
        "full": count_full(case),
        "runs": [_json(row) for row in rows],
    }
    return entry, rows


def _make_peer() -> Any:
    try:
        package = convert_package()
    except CheckpointError:
        return None
    return importlib.import_module(f"{package.__name__}.peers").make_peer


def _show(line: str) -> None:
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _json(row: Measured) -> dict[str, Any]:
    fields = row._asdict()
    if row.seconds:
        fields["median_s"], fields["best_s"] = row.median_s, min(row.seconds)
        fields["host_median_s"] = row.host_median_s
    return fields


def _table(entry: dict[str, Any], rows: list[Measured], limits: Limits) -> str:
    counts = entry["full"]
    lines = [
        "{variant} {component}, {size}x{size}, batch {batch}, {dtype}: ".format(**entry)
        + "{gflop:.1f} GFLOP, {temporary_mb:,.0f} MB of temporaries by XLA's count, ".format(
            **counts
        )
        + f"at least {_time(limits.seconds(counts))}",
        f"{'':14}{'median':>10}{'best':>10}{'to host':>10}{'MP/s':>9}{'ratio':>7}{'first':>8}"
        f"{'peak':>10}{'error':>7}",
    ]
    ours = rows[0].median_s
    for row in rows:
        if row.note:
            lines.append(f"{row.name:14}{row.note}")
            continue
        pixels = entry["batch"] * entry["size"] ** 2 / 1e6
        peak = "" if row.peak_mb is None else f"{row.peak_mb:,.0f} MB"
        lines.append(
            f"{row.name:14}{_time(row.median_s):>10}{_time(min(row.seconds)):>10}"
            f"{_time(row.host_median_s):>10}{pixels / row.median_s:>9.2f}"
            f"{row.median_s / ours:>7.2f}{row.first_s:>6.1f} s{peak:>10}{row.max_error:>7.0e}"
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{1e3 * seconds:.3f} ms"


def _make_figure(path: Path, count: int) -> tuple[Any, str]:
    """Return a figure for so many cases and the format of its file.

    Raises:
        UsageError: matplotlib is not installed, or cannot write such a file.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UsageError("--plot needs matplotlib: pip install 'taesd-jax[bench]'") from error
    figure = Figure(figsize=(8, 2 + 1.6 * count), layout="constrained")
    kind = path.suffix.removeprefix(".").lower() or "png"
    if kind not in (kinds := figure.canvas.get_supported_filetypes()):
        raise UsageError(f"--plot {path}: expected one of {', '.join(sorted(kinds))}")
    return figure, kind


def _plot(report: dict[str, Any], path: Path) -> None:
    cases = report["cases"]
    figure, kind = _make_figure(path, len(cases))
    for axes, case in zip(figure.subplots(len(cases), squeeze=False)[:, 0], cases, strict=True):
        runs = [row for row in case["runs"] if row["seconds"]][::-1]
        axes.barh([row["name"] for row in runs], [row["median_s"] for row in runs])
        title = "{variant} {component}, {size}x{size}, batch {batch}, {dtype}"
        axes.set_title(title.format(**case))
        axes.set_xlabel("seconds, median")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120)
    write_files({Path(path): buffer.getvalue()})

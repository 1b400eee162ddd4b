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
from ..video import VIDEO_VARIANTS
from .arguments.bench import PEERS, VIDEO_PEERS
from .counts import Limits, count_full, describe_machine, measure_limits
from .dataset_bench import run_dataset_bench
from .measurement import AnyCase, Measured, call_overhead, measure, set_threads
from .options import convert_package
from .outputs import check_outputs, write_json
from .runners import Case
from .video_runners import VideoCase


def run_bench(args: argparse.Namespace) -> int:
    """Measure speed and memory next to PyTorch, ONNX Runtime and OpenVINO."""
    cases = _cases(args)
    for case in cases:
        if case.size % (factor := case.config.spatial_factor):
            raise UsageError(
                f"sizes must be multiples of {factor} for {case.variant}, got {case.size}"
            )
    check_outputs(args, [args.json, args.plot])
    if args.plot:
        _make_figure(Path(args.plot), 1)
    threads = set_threads(args.threads)
    if args.dataset:
        return run_dataset_bench(args)
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
    for case in (case._replace(threads=threads) for case in cases):
        entry, rows = _run_case(case, args)
        report["cases"].append(entry)
        print("\n" + _table(case, entry["full"], rows, limits[case.dtype]), flush=True)
    if args.overhead:
        report["overhead"] = call_overhead()
        text = "call overhead: vae.decode {vae_us:.0f} us, bare compiled call {bare_us:.0f} us"
        print("\n" + text.format(**report["overhead"]))
    if args.json:
        write_json(args, args.json, report)
    if args.plot:
        _plot(report, Path(args.plot))
    return 0


def _cases(args: argparse.Namespace) -> list[AnyCase]:
    """List the cases, without their threads."""
    cases: list[AnyCase] = []
    axes: tuple[list[Any], ...]
    sizes, others = args.sizes, (args.batch, args.dtypes)
    if args.video is None:
        axes = (args.variants, args.components, sizes, *others)
        for variant, *rest in itertools.product(*axes):
            cases.append(Case(variant, VARIANTS[variant], *rest, threads=0))
    else:
        axes = (args.video or ["taew2_1"], args.components, sizes, args.frames, *others)
        for variant, *rest in itertools.product(*axes):
            cases.append(VideoCase(variant, VIDEO_VARIANTS[variant], *rest, threads=0))
    return cases


def _run_case(case: AnyCase, args: argparse.Namespace) -> tuple[dict[str, Any], list[Measured]]:
    every = PEERS if isinstance(case, Case) else VIDEO_PEERS
    peers = [*every] if "all" in args.peers else [p for p in args.peers if p != "none"]
    rows = measure(
        case.names(peers, strategies=args.strategies),
        case,
        rounds=args.rounds,
        make_peer=_make_peer(case),
        peaks=args.peaks,
        progress=_show if sys.stderr.isatty() else lambda line: None,
    )
    fields = ("variant", "component", "size", "frames", "batch", "dtype")
    entry: dict[str, Any] = {name: getattr(case, name) for name in fields if name in case._fields}
    entry |= {"title": case.title, "full": count_full(case), "runs": [_json(row) for row in rows]}
    return entry, rows


def _make_peer(case: AnyCase) -> Any:
    module, function = ("peers", "make_peer")
    if isinstance(case, VideoCase):
        module, function = ("video_peers", "make_video_peer")
    try:
        package = convert_package()
    except CheckpointError:
        return None
    return getattr(importlib.import_module(f"{package.__name__}.{module}"), function)


def _show(line: str) -> None:
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _json(row: Measured) -> dict[str, Any]:
    fields = row._asdict()
    if row.seconds:
        fields["median_s"], fields["best_s"] = row.median_s, min(row.seconds)
        fields["host_median_s"] = row.host_median_s
    return fields


def _table(case: AnyCase, counts: dict[str, float], rows: list[Measured], limits: Limits) -> str:
    lines = [
        f"{case.title}: {counts['gflop']:.1f} GFLOP, {counts['temporary_mb']:,.0f} MB of "
        f"temporaries by XLA's count, at least {_time(limits.seconds(counts))}",
        f"{'':14}{'median':>10}{'best':>10}{'to host':>10}{'ms each':>9}{'MP/s':>9}{'ratio':>7}"
        f"{'first':>8}{'peak':>10}{'error':>7}",
    ]
    ours = rows[0].median_s
    for row in rows:
        if row.note:
            lines.append(f"{row.name:14}{row.note}")
            continue
        pixels = case.pictures * case.size**2 / 1e6
        peak = "" if row.peak_mb is None else f"{row.peak_mb:,.0f} MB"
        lines.append(
            f"{row.name:14}{_time(row.median_s):>10}{_time(min(row.seconds)):>10}"
            f"{_time(row.host_median_s):>10}{1e3 * row.median_s / case.pictures:>9.1f}"
            f"{pixels / row.median_s:>9.2f}"
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
        axes.set_title(case["title"])
        axes.set_xlabel("seconds, median")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120)
    write_files({Path(path): buffer.getvalue()})

"""Speed and memory of one component, beside other programs, in turn and in one run."""

from __future__ import annotations

import concurrent.futures
import functools
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..errors import one_line
from ..io.images import from_uint8
from ..model.functional import init
from ..strategies.run import decode
from .runners import OURS, Case, MakePeer, Runner, make_runner
from .video_runners import VideoCase

AnyCase = Case | VideoCase

# On an accelerator calls are timed in a row of this length, so that starting them is not counted.
_ROW_SECONDS = 0.03


class Measured(NamedTuple):
    """What one runner took.

    Attributes:
        name: The runner.
        seconds: Times of the rounds, on the device.
        host_seconds: The same with the copy of the result to the host.
        first_s: Seconds to build it and run it once, compilation included.
        peak_mb: Peak of resident memory of a process that does nothing else, in MB, or None if
            unknown. Of peers' what importing this library took is subtracted.
        max_error: Largest difference from `taesd-jax`.
        note: Why it did not run, if so.
    """

    name: str
    seconds: tuple[float, ...] = ()
    host_seconds: tuple[float, ...] = ()
    first_s: float = 0
    peak_mb: float | None = None
    max_error: float = 0
    note: str = ""

    @property
    def median_s(self) -> float:
        """Median time of a call, on the device."""
        return statistics.median(self.seconds)

    @property
    def host_median_s(self) -> float:
        """Median time of a call and the copy of its result to the host."""
        return statistics.median(self.host_seconds)


def set_threads(threads: int | None) -> int:
    """Keep this process to that many CPUs, before JAX starts; return how many it has then."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    cpus = sorted(os.sched_getaffinity(0))
    if threads:
        os.sched_setaffinity(0, cpus[:threads])
    return len(os.sched_getaffinity(0))


def measure(
    names: Sequence[str],
    case: AnyCase,
    *,
    rounds: int,
    make_peer: MakePeer | None = None,
    peaks: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Measured]:
    """Run each once, then all in turn for so many rounds.

    Args:
        names: Runners, ours first: errors are taken against the first.
        case: What is run.
        rounds: Rounds.
        make_peer: `taesd_jax.convert.peers.make_peer`, or None without torch.
        peaks: Whether to run each once more in a process of its own and take its peak memory.
        progress: Told what happens.
    """
    runners: dict[str, Runner] = {}
    rows: dict[str, Measured] = {}
    reference: np.ndarray | None = None
    for name in names:
        progress(f"building {name}")
        start = time.perf_counter()
        try:
            runner = make_runner(case, name, make_peer)
            result = runner.fetch(runner.start())
        except Exception as error:  # each peer raises its own kinds; the others go on
            if name == OURS:
                raise
            rows[name] = Measured(name, note=one_line(error) or type(error).__name__)
            continue
        first = time.perf_counter() - start
        reference = result if reference is None else reference
        runners[name] = runner
        rows[name] = Measured(name, first_s=first, max_error=_largest_error(result, reference))
    times = _time_in_turn(runners, rounds, progress)
    for name in runners:
        seconds, host_seconds = (tuple(column) for column in zip(*times[name], strict=True))
        rows[name] = rows[name]._replace(seconds=seconds, host_seconds=host_seconds)
        if peaks:
            progress(f"peak memory of {name}")
            rows[name] = rows[name]._replace(peak_mb=peak_memory(name, case, make_peer))
    return list(rows.values())


def _largest_error(result: np.ndarray, reference: np.ndarray) -> float:
    expected = reference.astype(np.float32)
    if result.dtype == np.uint8:
        expected, result = np.clip(expected, -1, 1), from_uint8(result)
    return float(np.abs(result.astype(np.float32) - expected).max())


def _time_in_turn(
    runners: dict[str, Runner], rounds: int, progress: Callable[[str], None]
) -> dict[str, list[tuple[float, float]]]:
    """Return seconds of a call, on the device and with the copy to the host, for each round."""
    on_cpu = jax.devices()[0].platform == "cpu"
    calls = {name: 1 if on_cpu else _calls_in_a_row(runner) for name, runner in runners.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for i in range(rounds):
        progress(f"round {i + 1} of {rounds}")
        for name, runner in runners.items():
            on_device = _seconds(functools.partial(_run_in_a_row, runner, calls[name]))
            with_copy = _seconds(lambda runner=runner: runner.fetch(runner.start()))
            times[name].append((on_device / calls[name], with_copy))
    return times


def _calls_in_a_row(runner: Runner) -> int:
    _run_in_a_row(runner, 2)
    return max(1, math.ceil(_ROW_SECONDS / _seconds(lambda: _run_in_a_row(runner, 1))))


def _run_in_a_row(runner: Runner, calls: int) -> None:
    for _ in range(calls - 1):
        runner.start()
    runner.wait(runner.start())


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_memory(name: str, case: AnyCase, make_peer: MakePeer | None) -> float | None:
    """Return a runner's peak of resident memory in a process of its own, see `Measured`."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_peak_here, name, case, make_peer).result()


def _peak_here(name: str, case: AnyCase, make_peer: MakePeer | None) -> float | None:
    set_threads(case.threads)
    before = 0 if case.is_ours(name) else _resident("VmRSS")
    runner = make_runner(case, name, make_peer)
    for _ in range(2):
        runner.fetch(runner.start())
    after = _resident("VmHWM")
    return None if before is None or after is None else after - before


def _resident(name: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1]) / 1e6


def call_overhead(*, calls: int = 500) -> dict[str, float]:
    """Return microseconds of `vae.decode` on a tiny input, and of the bare compiled call."""
    config = AutoencoderTinyConfig(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
    )
    vae = AutoencoderTiny(init(jax.random.key(0), config=config), config)
    z = jnp.zeros((1, 1, 1, 4))
    compiled = jax.jit(lambda p, z: decode(p, z, config=config)).lower(vae.params, z).compile()
    runs = {"vae_us": lambda: vae.decode(z).sample, "bare_us": lambda: compiled(vae.params, z)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(calls + 10):
        for name, run in runs.items():
            start = time.perf_counter()
            run().block_until_ready()
            if i >= 10:
                times[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(values) for name, values in times.items()}

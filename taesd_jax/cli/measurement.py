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
from ..model.functional import decode, encode, init
from ..model.layers import Half, stages_of
from ..strategies.streaming import decode_streaming, encode_streaming
from ..strategies.strips import Plan
from .runners import OURS, Case, Runner, jax_runner, random_params

MakePeer = Callable[..., tuple[Callable[..., Any], ...]]
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


def plans_of(half: Half, config: AutoencoderTinyConfig) -> dict[str, Plan | None]:
    """Name the plans that are compared: whole, and strips of two heights behind each stage."""
    plans: dict[str, Plan | None] = {"whole": None}
    for whole in range(int(config.pool_channels > 0), stages_of(half, config)):
        for rows in (2, 4, 8, 16):
            plans[f"{whole}, {rows}"] = Plan(whole, rows)
    return plans


def make_runner(name: str, case: Case, make_peer: MakePeer | None) -> Runner:
    """Build a runner: ours, one of our plans, or a peer.

    Raises:
        ImportError: It is not installed.
        ValueError: It cannot run this case.
    """
    params, x = random_params(case.config), case.input
    plans = plans_of(case.half, case.config)
    if name != OURS and name not in plans:
        if make_peer is None:
            raise ImportError("torch is not installed")
        options = {"dtype": case.dtype, "threads": case.threads}
        return Runner(*make_peer(name, params, case.config, case.half, x, **options))
    params = jax.tree.map(lambda p: jnp.asarray(p, case.dtype), params)
    value, decoding = jnp.asarray(x, case.dtype), case.half == "decoder"
    if name == OURS:
        vae = AutoencoderTiny(params, case.config)
        if decoding:
            return jax_runner(lambda: vae.decode(value).sample)
        return jax_runner(lambda: vae.encode(value).latents)
    if plan := plans[name]:
        streamed = decode_streaming if decoding else encode_streaming
        return jax_runner(lambda: streamed(params, value, config=case.config, plan=plan))
    run = decode if decoding else encode
    return jax_runner(lambda: run(params, value, config=case.config))


def measure(
    names: Sequence[str],
    case: Case,
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
            runner = make_runner(name, case, make_peer)
            result = np.asarray(runner.fetch(runner.start()), np.float32)
        except Exception as error:  # each peer raises its own kinds; the others go on
            if name == OURS:
                raise
            rows[name] = Measured(name, note=one_line(error) or type(error).__name__)
            continue
        first = time.perf_counter() - start
        reference = result if reference is None else reference
        runners[name] = runner
        error = float(np.abs(result - reference).max())
        rows[name] = Measured(name, first_s=first, max_error=error)
    times = _time_in_turn(runners, rounds, progress)
    for name in runners:
        seconds, host_seconds = (tuple(column) for column in zip(*times[name], strict=True))
        rows[name] = rows[name]._replace(seconds=seconds, host_seconds=host_seconds)
        if peaks:
            progress(f"peak memory of {name}")
            rows[name] = rows[name]._replace(peak_mb=peak_memory(name, case, make_peer))
    return list(rows.values())


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


def peak_memory(name: str, case: Case, make_peer: MakePeer | None) -> float | None:
    """Return a runner's peak of resident memory in a process of its own, see `Measured`."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_peak_here, name, case, make_peer).result()


def _peak_here(name: str, case: Case, make_peer: MakePeer | None) -> float | None:
    set_threads(case.threads)
    ours = name == OURS or name in plans_of(case.half, case.config)
    before = 0 if ours else _resident("VmRSS")
    runner = make_runner(name, case, make_peer)
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

"""Speed and memory of one half, beside other ways and other programs, in turn and in one run."""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import multiprocessing
import os
import platform
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
from ..model.functional import Params, abstract_params, init
from ..model.layers import COMPONENTS, Component, stages_of
from ..strategies.run import decode, encode
from ..strategies.strategy import Full, Strategy, Strips, min_full_stages

OURS = "taesd-jax"
Run = Callable[[], np.ndarray]
MakePeer = Callable[..., Run]


class Case(NamedTuple):
    """What is run.

    Attributes:
        config: Architecture; the weights are random, which changes no time.
        half: "encoder" or "decoder".
        size: Side of the image.
        batch: Images at a time.
        dtype: Dtype of input and computation.
        threads: CPU threads, the same for all.
    """

    config: AutoencoderTinyConfig
    half: Component
    size: int
    batch: int
    dtype: str
    threads: int

    @property
    def input(self) -> np.ndarray:
        """A random input, NHWC and float32."""
        side, channels = self.size, self.config.in_channels
        if self.half == "decoder":
            side, channels = side // self.config.spatial_factor, self.config.latent_channels
        x = np.random.default_rng(0).standard_normal((self.batch, side, side, channels))
        return np.clip(x, -1, 1).astype(np.float32) if self.half == "encoder" else x.astype("f")


class Measured(NamedTuple):
    """What one runner took.

    Attributes:
        name: The runner.
        seconds: Times of the rounds.
        first_s: Seconds to build it and run it once, compilation included.
        peak_mb: Peak of resident memory of a process that does nothing else, in MB, or None if
            unknown. Of peers' what importing this library took is subtracted.
        max_error: Largest difference from `taesd-jax`.
        note: Why it did not run, if so.
    """

    name: str
    seconds: tuple[float, ...] = ()
    first_s: float = 0
    peak_mb: float | None = None
    max_error: float = 0
    note: str = ""

    @property
    def median_s(self) -> float:
        """Median time of a round."""
        return statistics.median(self.seconds)


def set_threads(threads: int | None) -> int:
    """Keep this process to that many CPUs, before JAX starts; return how many it has then."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    cpus = sorted(os.sched_getaffinity(0))
    if threads:
        os.sched_setaffinity(0, cpus[:threads])
    return len(os.sched_getaffinity(0))


def plans_of(half: Component, config: AutoencoderTinyConfig) -> dict[str, Strategy]:
    """Name the strategies that are compared: whole, and strips of several heights."""
    plans: dict[str, Strategy] = {"whole": Full()}
    for stages in range(min_full_stages(config), stages_of(half, config)):
        for rows in (2, 4, 8, 16):
            plans[f"{stages}, {rows}"] = Strips(stages, rows)
    return plans


def make_run(name: str, case: Case, make_peer: MakePeer | None) -> Run:
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
        return make_peer(name, params, case.config, case.half, x, **options)
    params, value = jax.tree.map(jnp.asarray, params), jnp.asarray(x, case.dtype)
    decoding = case.half == "decoder"
    if name == OURS:
        vae = AutoencoderTiny(params, case.config)
        if decoding:
            return lambda: np.asarray(vae.decode(value).sample)
        return lambda: np.asarray(vae.encode(value).latents)
    run, strategy = decode if decoding else encode, plans[name]
    return lambda: np.asarray(run(params, value, config=case.config, strategy=strategy))


def random_params(config: AutoencoderTinyConfig) -> Params:
    """Draw params without starting a backend, so that peers do not carry JAX's memory."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 100
        return (rng.standard_normal(shape.shape) / np.sqrt(fan_in)).astype(np.float32)

    return {half: jax.tree.map(draw, abstract_params(half, config)) for half in COMPONENTS}


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
    runs: dict[str, Run] = {}
    rows: dict[str, Measured] = {}
    reference: np.ndarray | None = None
    for name in names:
        progress(f"building {name}")
        start = time.perf_counter()
        try:
            run = make_run(name, case, make_peer)
            result = np.asarray(run(), np.float32)
        except Exception as error:  # each peer raises its own kinds; the others go on
            if name == OURS:
                raise
            rows[name] = Measured(name, note=one_line(error) or type(error).__name__)
            continue
        first = time.perf_counter() - start
        reference = result if reference is None else reference
        runs[name] = run
        error = float(np.abs(result - reference).max())
        rows[name] = Measured(name, first_s=first, max_error=error)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        progress(f"round {i + 1} of {rounds}")
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    for name in runs:
        rows[name] = rows[name]._replace(seconds=tuple(times[name]))
        if peaks:
            progress(f"peak memory of {name}")
            rows[name] = rows[name]._replace(peak_mb=peak_memory(name, case, make_peer))
    return list(rows.values())


def peak_memory(name: str, case: Case, make_peer: MakePeer | None) -> float | None:
    """Return a runner's peak of resident memory in a process of its own, see `Measured`."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_peak_here, name, case, make_peer).result()


def _peak_here(name: str, case: Case, make_peer: MakePeer | None) -> float | None:
    set_threads(case.threads)
    ours = name == OURS or name in plans_of(case.half, case.config)
    before = 0 if ours else _resident("VmRSS")
    run = make_run(name, case, make_peer)
    run()
    run()
    after = _resident("VmHWM")
    return None if before is None or after is None else after - before


def _resident(name: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1]) / 1e6


def count_whole(case: Case) -> dict[str, float]:
    """Return XLA's own counts for the whole half: operations and bytes of temporaries.

    Operations are counted before it compiles: afterwards the convolutions of a GPU are calls of a
    library, which have none.
    """
    params = jax.eval_shape(lambda: init(jax.random.key(0), config=case.config))
    run = decode if case.half == "decoder" else encode
    x = jax.ShapeDtypeStruct(case.input.shape, jnp.dtype(case.dtype))
    lowered = jax.jit(lambda p, x: run(p, x, config=case.config)).lower(params, x)
    start = time.perf_counter()
    memory = lowered.compile().memory_analysis()
    seconds = time.perf_counter() - start
    analysis: Any = lowered.cost_analysis() or {}
    return {
        "gflop": analysis.get("flops", 0) / 1e9,
        "temporary_mb": memory.temp_size_in_bytes / 1e6 if memory else 0,
        "compile_s": seconds,
    }


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


def describe_machine() -> dict[str, Any]:
    """Name the device and the versions that the figures hold for."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    versions = {}
    for package in ("jax", "jaxlib", "torch", "diffusers", "onnxruntime", "openvino"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpu": model, "device": jax.devices()[0].device_kind, "versions": versions}

"""Chooses the fastest strategy within a memory budget, from shapes and the platform alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax import lax

from ..kernels import is_half
from ..model.functional import Computation
from ..model.layers import num_stages
from ..model.validation import check_count
from .memory import estimate_bytes
from .placement import device_of, is_sharded, is_traced
from .run import run, with_engine
from .strategy import Full, Strategy, Strips, Tiles, min_full_stages, resolve_strategy

# Below this many pixels a CPU's caches hold the activations anyway.
_SMALL_IMAGE = 192 * 192
# Share of all the memory of a device that temporaries may take by default.
_SHARE = 1 / 8
# Where a host does not say how much memory it has: 4 GiB.
_UNKNOWN_MEMORY = 2**32


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a component runs.

    Attributes:
        strategy: `Full()`, `Strips(...)` or `Tiles(...)`.
        batch_size: Images at a time; None for all of them.
        temporary_bytes: Estimate of the memory it takes beside params, input and result, on all
            devices together; None for shapes with symbolic sizes.
    """

    strategy: Strategy
    batch_size: int | None
    temporary_bytes: int | None

    def __str__(self) -> str:
        """Say it in words."""
        batch = f", {self.batch_size} at a time" if self.batch_size else ""
        size = ""
        if self.temporary_bytes is not None:
            size = f", {self.temporary_bytes / 1e6:,.0f} MB"
        return f"{self.strategy}{batch}{size}"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What restricts the choice.

    Attributes:
        budget: Bytes that temporaries may take; None for any number.
        batch_size: Most images at a time, or None.
        only: A strategy that is insisted on, or None.
        split_batch: Whether the planner may run the images of a batch one after another.

    Raises:
        TypeError: The budget is not an integer.
        ValueError: It is negative.
    """

    budget: int | None = None
    batch_size: int | None = None
    only: Strategy | None = None
    split_batch: bool = True

    def __post_init__(self):
        if self.budget is not None:
            check_count("memory_budget", self.budget, least=0)


def plan(params: Any, x: Any, computation: Computation, limits: Limits) -> Execution:
    """Choose how to run for params and an input where they lie.

    Without a budget it is `default_budget`. Inside somebody's program there is none: memory is then
    the whole program's affair.
    """
    limits = _in_context(params, x, computation, limits, is_traced(x, params))
    computation = with_engine(params, x, computation)
    return choose(computation, x.shape, device_of(x, params).platform, limits)


def run_planned(params: Any, x: Any, computation: Computation, limits: Limits) -> jax.Array:
    """Choose and run; `run` describes the arguments.

    Inside somebody's program the choice follows the platform that it is lowered for.
    """
    traced = is_traced(x, params)
    limits = _in_context(params, x, computation, limits, traced)
    platforms = ("cpu", "gpu") if traced else (device_of(x, params).platform,)
    planned = with_engine(params, x, computation)
    executions = [choose(planned, x.shape, platform, limits) for platform in platforms]
    runs = [functools.partial(_execute, computation, execution) for execution in executions]
    if executions[0] == executions[-1]:
        return runs[0](params, x)
    return lax.platform_dependent(params, x, cpu=runs[0], default=runs[1])


def _execute(computation: Computation, execution: Execution, params: Any, x: Any) -> jax.Array:
    return run(params, x, computation, execution.strategy, execution.batch_size)


def _in_context(
    params: Any, x: Any, computation: Computation, limits: Limits, traced: bool
) -> Limits:
    """Add what follows from the computation and from where the input lies."""
    sharded, budget, only = is_sharded(x), limits.budget, limits.only
    if computation.scale != 1 or (only is None and sharded):
        only = Full()
    if budget is None and only is None and not traced:
        budget = default_budget(device_of(x, params))
    # A batch in somebody's program may be sharded: slicing it would gather it.
    split_batch = not (sharded or traced)
    return Limits(budget, None if sharded else limits.batch_size, only, split_batch)


@functools.lru_cache(maxsize=1024)
def choose(
    computation: Computation, shape: tuple[Any, ...], platform: str, limits: Limits
) -> Execution:
    """Choose the fastest execution within the limits, or the smallest if none is.

    On a CPU strips that stay in its caches are faster than the full image; see `taesd-jax bench
    --strategies`. On other devices full images are. `shape` is the input's.

    >>> from taesd_jax import VARIANTS
    >>> computation = Computation("decoder", VARIANTS["taesd"], "float32", "float32")
    >>> shape, limits = (1, 128, 128, 4), Limits(budget=2**30)
    >>> print(choose(computation, shape, "cpu", limits))
    Strips(full_stages=1, rows=4), 84 MB
    >>> print(choose(computation, shape, "gpu", limits))
    Full(), 1,074 MB
    """
    component, config = computation.component, computation.config
    n, *size, _ = shape
    if not all(isinstance(length, int) for length in shape):
        return Execution(Full(), None, None)

    def execution(strategy: Strategy, *, split: bool) -> Execution:
        images = min(limits.batch_size or n, 1 if split and limits.split_batch else n)
        one = estimate_bytes(strategy, component, (size[0], size[1]), config)
        total = int(images * one * _relative_bytes(computation.dtype, platform))
        return Execution(strategy, images if images < n else None, total)

    if limits.only:
        split = isinstance(limits.only, Tiles) and limits.batch_size is None
        return execution(limits.only, split=split)
    full = [execution(Full(), split=split) for split in (False, True)]
    parts = [execution(strategy, split=True) for strategy in _parts(computation, platform)]
    pixels = size[0] * size[1] * (config.spatial_factor**2 if component == "decoder" else 1)
    strips_are_faster = platform == "cpu" and pixels > _SMALL_IMAGE
    executions = [*parts, *full] if parts and strips_are_faster else [*full, *parts]

    def memory(execution: Execution) -> int:
        return execution.temporary_bytes or 0

    fitting = (e for e in executions if limits.budget is None or memory(e) <= limits.budget)
    return next(fitting, min(executions, key=memory))


def _relative_bytes(dtype: str, platform: str) -> float:
    """Return the bytes of an activation in a dtype, 1 for those of float32."""
    if platform == "gpu" and is_half(dtype):
        return 0.5  # full decodes of 4096x4096 and 8192x8192 in bfloat16 took 0.75 of the estimate
    return 2 if dtype == "float64" else 1  # elsewhere half precision has float32 sums


def _parts(computation: Computation, platform: str) -> list[Strategy]:
    """List strips and tiles, the fastest first."""
    component, config = computation.component, computation.config
    least, most = min_full_stages(config), num_stages(component, config)
    if most < max(least, 1):
        return []
    strips: list[Strategy] = [
        resolve_strategy(Strips(), component, config),
        Strips(max(most - 2, least), 4),
        Strips(max(most - 3, least), 2),
    ]
    if component == "decoder" and computation.engine and computation.engine.onednn:
        # oneDNN reorders its kernels at every call: fewer, taller strips.
        strips.insert(0, Strips(max(most - 1, least), 16))
    return [*strips, Tiles()] if platform == "cpu" else [Tiles(), *strips]


def default_budget(device: Any) -> int:
    """Return how many bytes temporaries may take: an eighth of all the memory of a device."""
    return int(device_memory(device) * _SHARE)


def device_memory(device: Any) -> int:
    """Return a device's bytes of memory; one that reports nothing is taken to have the host's."""
    return (device.memory_stats() or {}).get("bytes_limit", _host_memory())


@functools.cache
def _host_memory() -> int:
    """Return the host's bytes of memory, or the control group's if it has less."""
    sizes = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo", "MemTotal:")]
    sizes += [int(line) for line in _lines("/sys/fs/cgroup/memory.max") if line.isdigit()]
    return min(sizes, default=_UNKNOWN_MEMORY)


def _lines(path: str, start: str = "") -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (line for line in Path(path).read_text().splitlines() if line.startswith(start))

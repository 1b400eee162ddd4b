"""What a case needs by count, what the device gives by measurement, and what the machine is."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .measurement import AnyCase

_PACKAGES = ("jax", "jaxlib", "torch", "diffusers", "onnxruntime", "openvino")
_MATRIX, _COPY = 8192, 2**30  # sides of a product, elements of a copy, on an accelerator
_MATRIX_CPU, _COPY_CPU = 1024, 2**25


class Limits(NamedTuple):
    """What the device reaches on its own.

    Attributes:
        tflops: In a product of two random square matrices, 10^12 operations a second.
        gb_per_s: In a copy, 10^9 bytes a second, read and written.
    """

    tflops: float
    gb_per_s: float

    def seconds(self, counts: dict[str, float]) -> float:
        """Return the least time for so many operations and bytes (doi:10.1145/1498765.1498785)."""
        return max(counts["gflop"] / (1e3 * self.tflops), counts["least_mb"] / 1e3 / self.gb_per_s)


def measure_limits(dtype: str) -> Limits:
    """Time a matrix product and a copy in a dtype, the best of a few runs."""
    on_cpu = jax.devices()[0].platform == "cpu"
    side, count = (_MATRIX_CPU, _COPY_CPU) if on_cpu else (_MATRIX, _COPY)
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), jnp.dtype(dtype))
    x = jnp.zeros(count, dtype)
    product = _best_seconds(jax.jit(jnp.matmul), a, b)
    copy = _best_seconds(jax.jit(lambda x: x + 1), x)
    return Limits(2 * side**3 / product / 1e12, 2 * x.nbytes / copy / 1e9)


def _best_seconds(run: Callable[..., jax.Array], *arrays: jax.Array) -> float:
    def seconds(calls: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready([run(*arrays) for _ in range(calls)][-1])
        return (time.perf_counter() - start) / calls

    seconds(2)
    return min(seconds(5) for _ in range(3))


def count_full(case: AnyCase) -> dict[str, float]:
    """Return XLA's own counts for the whole component, and the bytes that it must move at least.

    Operations are counted before it compiles: afterwards the convolutions of a GPU are calls of a
    library, which have none. Those of a video are counted for one latent.
    """
    case, repeats = case.step()
    dtype = jnp.dtype(case.dtype)
    run, params = case.program()
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), params)
    x = jax.ShapeDtypeStruct(case.shape, dtype)
    lowered = jax.jit(run).lower(params, x)
    start = time.perf_counter()
    memory = lowered.compile().memory_analysis()
    seconds = time.perf_counter() - start
    analysis: Any = lowered.cost_analysis() or {}
    arrays = jax.tree.leaves((params, x, lowered.out_info))
    return {
        "gflop": repeats * analysis.get("flops", 0) / 1e9,
        "least_mb": repeats * sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays) / 1e6,
        "temporary_mb": memory.temp_size_in_bytes / 1e6 if memory else 0,
        "compile_s": seconds,
    }


def describe_machine() -> dict[str, Any]:
    """Name the device and the versions that the figures hold for."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "cpu": model,
        "device": device.device_kind,
        "platform": device.client.platform_version,
        "versions": versions,
    }

"""Whole, streamed or tiled: the fastest way to run a half within a memory budget."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jax.core import Tracer
from jax.typing import DTypeLike

from ..config import AutoencoderTinyConfig
from ..model.functional import Params, decode, encode, is_sharded, resolve_dtypes
from ..model.layers import Half, stages_of
from .batching import decode_sliced, encode_sliced
from .estimates import streamed_bytes, tiled_bytes, whole_bytes
from .streaming import decode_streaming, default_plan, encode_streaming
from .strips import Plan
from .tiling import decode_tiled, encode_tiled
from .windows import TILE

# Below this many pixels a CPU's caches hold the activations anyway.
_SMALL_IMAGE = 192 * 192


class Way(NamedTuple):
    """How a half is run.

    Attributes:
        name: "whole", "streamed" or "tiled".
        plan: The plan, if streamed.
        tile: Side of a tile in latents, if tiled.
        chunk: Images, or tiles, computed at a time.
        temporary_bytes: Estimate of the memory it takes beside params, input and result; 0 where
            there was no choice to make.
    """

    name: Literal["whole", "streamed", "tiled"]
    plan: Plan | None
    tile: int | None
    chunk: int
    temporary_bytes: int

    def __str__(self) -> str:
        """Say it in words."""
        how = ""
        if self.plan:
            how = f" with {self.plan}"
        if self.tile:
            how = f" in tiles of {self.tile} latents"
        size = f", {self.temporary_bytes / 1e6:,.0f} MB" if self.temporary_bytes else ""
        return f"{self.name}{how}, {self.chunk} at a time{size}"


def default_budget(device: Any) -> int:
    """Return how many bytes temporaries may take: half of what the device has free.

    A device that reports nothing is taken to have the host's memory.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) // 2
    return _available_memory() // 2


def _available_memory() -> int:
    """Return the host's free bytes, or the control group's if it has less; 4 GiB if unknown."""
    free = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo", "MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    limit, used = (list(_lines(group / name)) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdigit():
        # Pages of files that were read count as used, but give way.
        cached = sum(int(x.split()[1]) for x in _lines(group / "memory.stat", "inactive_file"))
        free.append(max(0, int(limit[0]) - int(used[0]) + cached))
    return min(free, default=2**32)


def _lines(path: str | Path, start: str = "") -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (line for line in Path(path).read_text().splitlines() if line.startswith(start))


@functools.lru_cache(maxsize=1024)
def choose_way(
    half: Half,
    shape: tuple[int, int, int, int],
    *,
    config: AutoencoderTinyConfig,
    platform: str,
    budget: int,
    wide: bool = False,
    split: bool = True,
) -> Way:
    """Choose the fastest way that fits a budget, or the smallest if none does.

    On a CPU strips that stay in its caches are faster than the whole image; see
    `taesd-jax bench --plans`. On other devices whole images are.

    Args:
        half: Which half.
        shape: Shape of its input.
        config: Its architecture.
        platform: "cpu", "gpu" or "tpu".
        budget: Bytes that temporaries may take.
        wide: Whether the computation is in float64.
        split: Whether the images of a batch may run one after another.

    >>> from taesd_jax import VARIANTS
    >>> options = {"config": VARIANTS["taesd"], "platform": "cpu", "budget": 2**30}
    >>> print(choose_way("decoder", (1, 128, 128, 4), **options))
    streamed with Plan(whole=1, rows=4), 1 at a time, 84 MB
    """
    ways = _ways(half, shape, config, platform, wide, split)
    fitting = (way for way in ways if way.temporary_bytes <= budget)
    return next(fitting, min(ways, key=lambda way: way.temporary_bytes))


def choose_way_for(
    half: Half,
    params: Params,
    x: Any,
    config: AutoencoderTinyConfig,
    dtype: DTypeLike | None,
    budget: int | None,
    chunk: int | None,
    tile: int | None,
    remat: bool,
) -> Way:
    """Choose the way for params and an input where they lie, and for what the user insists on.

    Raises:
        TypeError: The budget is neither None, for the default, nor a number of bytes.
    """
    if not all(isinstance(size, int) for size in x.shape):
        return Way("whole", None, None, x.shape[0], 0)
    if tile:
        return Way("tiled", None, tile, 1, 0)
    if is_sharded(x):
        return Way("whole", None, None, x.shape[0], 0)
    if remat:
        return Way("whole", None, None, chunk or x.shape[0], 0)
    device = device_of(x, params)
    if budget is None:
        budget = default_budget(device)
    elif isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise TypeError(f"memory_budget must be a number of bytes, got {budget!r}")
    way = choose_way(
        half,
        x.shape,
        config=config.architecture,
        platform=device.platform,
        budget=budget,
        wide=resolve_dtypes(x, config, dtype)[0] == "float64",
        # A batch in somebody's jit may be sharded, and cut would be gathered.
        split=not (isinstance(x, Tracer) and len(jax.devices(device.platform)) > 1),
    )
    chunk = min(way.chunk, chunk or way.chunk)
    return way._replace(chunk=chunk, temporary_bytes=way.temporary_bytes * chunk // way.chunk)


def run_way(
    half: Half,
    params: Params,
    x: Any,
    *,
    config: AutoencoderTinyConfig,
    way: Way,
    dtype: DTypeLike | None,
    remat: bool,
) -> jax.Array:
    """Run a half on a checked input in the given way."""
    decoding = half == "decoder"
    if way.name == "tiled":
        tiled = decode_tiled if decoding else encode_tiled
        tile = way.tile or TILE
        return tiled(params, x, config=config, dtype=dtype, tile=tile, chunk=way.chunk)
    if way.chunk < x.shape[0]:
        sliced = decode_sliced if decoding else encode_sliced
        options: dict[str, Any] = {"plan": way.plan, "chunk": way.chunk, "remat": remat}
        return sliced(params, x, config=config, dtype=dtype, **options)
    if way.name == "streamed":
        streamed = decode_streaming if decoding else encode_streaming
        return streamed(params, x, config=config, dtype=dtype, plan=way.plan)
    return (decode if decoding else encode)(params, x, config=config, dtype=dtype, remat=remat)


def device_of(*trees: Any) -> Any:
    """Return the device of the first array that is on one, else JAX's default."""
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            return next(iter(leaf.devices()))
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return default if isinstance(default, jax.Device) else jax.local_devices(backend=default)[0]


def _ways(
    half: Half,
    shape: tuple[int, int, int, int],
    config: AutoencoderTinyConfig,
    platform: str,
    wide: bool,
    split: bool,
) -> list[Way]:
    """List the ways from the fastest to the smallest."""
    n, h, w, _ = shape
    least, most = int(config.pool_channels > 0), stages_of(half, config)
    images, factor = 1 if split else n, 2 if wide else 1

    def whole(chunk: int) -> Way:
        size = factor * chunk * whole_bytes(half, (h, w), config)
        return Way("whole", None, None, chunk, size)

    def streamed(plan: Plan) -> Way:
        size = factor * images * streamed_bytes(half, (h, w), config, plan)
        return Way("streamed", plan, None, images, size)

    wholes = [whole(n), whole(images)] if n > images else [whole(n)]
    if most < max(least, 1):
        return wholes
    plans = [
        default_plan(half, config),
        Plan(max(most - 2, least), 4),
        Plan(max(most - 3, least), 2),
    ]
    strips = [streamed(plan) for plan in plans]
    tiled = Way("tiled", None, TILE, 1, factor * tiled_bytes(half, (h, w), config, TILE))
    if platform != "cpu":
        return [*wholes, tiled, *strips]
    pixels = h * w * (config.spatial_factor**2 if half == "decoder" else 1)
    return [*wholes, *strips, tiled] if pixels <= _SMALL_IMAGE else [*strips, tiled]

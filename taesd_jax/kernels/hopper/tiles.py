"""Row tiles of a result, on their way through shared memory to the output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from .rows import ATOM, WGMMA

# From a step of a strip to the place of its row tile in the result.
Place = Callable[[Any], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """One worker's row tiles.

    Attributes:
        up: How many times the result is larger than the input.
        height: Of the input image.
        relu: Whether the result goes through a ReLU.
        skip: Added before that; (n * up * h, w / atoms, atoms, up, 64) or None.
        out: The result, of that shape.
        worker: Which of the two.
        row: Of each square of output pixels, as large as `up`.
        column: Likewise.
        views: Buffers, for copies and for registers: two with a skip, of which the next one is on
            its way while this one is used, else one.
        arrived: Barriers, one a buffer: its skip has.
        turn: Barriers, one a worker: the tensor cores are its own.
    """

    up: int
    height: int
    relu: bool
    skip: Any
    out: Any
    worker: Any
    row: Any
    column: Any
    views: tuple[Any, Any]
    arrived: Any
    turn: Any

    def of_strip(self, image: Any, top: Any, atom: Any) -> Place:
        """Return where the row tiles of a strip lie."""
        start = self.up * (image * self.height + top)
        return lambda t: (start + 2 * t + self.row, pl.ds(atom, ATOM), slice(None), self.column)

    def buffer(self, t: Any) -> Any:
        """Return the buffer of a step."""
        count = 1 if self.skip is None else 2
        return count * self.worker + lax.rem(t, count)

    def fetch_skip(self, place: Place, t: Any, steps: int) -> None:
        """Begin to copy the skip of step t, unless the strip ends before it."""
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        plgpu.copy_gmem_to_smem(
            self.skip.at[place(t)],
            self._for_copies(t),
            self.arrived.at[self.buffer(t)],
            predicate=t < steps,
        )

    def store(self, place: Place, t: Any, sums: Any) -> None:
        """Add the skip, apply the ReLU, round, and begin to copy the tile to the result."""
        tile = self.views[1].at[self.buffer(t)].transpose((1, 0))
        if self.skip is None:
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        else:
            plgpu.barrier_wait(self.arrived.at[self.buffer(t)])
            sums += plgpu.load(tile, layout=WGMMA).astype(jnp.float32)
        tile[...] = (jnp.maximum(sums, 0.0) if self.relu else sums).astype(self.out.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(self._for_copies(t), self.out.at[place(t)])

    def _for_copies(self, t: Any) -> Any:
        return self.views[0].at[self.buffer(t)].transpose((1, 0, 2))

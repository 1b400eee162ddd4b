"""Rows of activations (n, h, w, 64), streamed through shared memory to the tensor cores.

Pixel x of a row tile of 8 * atoms pixels lies at row 8 * (x % atoms) + x // atoms of its row in
shared memory. A shift by one pixel is then a shift by one swizzle atom of 8 rows, so one copy of an
input row and two small ones of its halo serve all nine taps as operands of wgmma, and the copies'
zero fill is the padding. One warpgroup streams rows into a ring of slots; the others, the workers,
compute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

CHANNELS = 64  # the depth of one swizzled row of 128 bytes
ATOM = 8  # pixels of one swizzle atom
_SHARED_BYTES = 222 * 1024  # of the 227 KiB that a thread block may have, less barriers
_HALO_ROWS_COST = 0.2  # what the two rows that strips share cost, in rows computed
SWIZZLE = plgpu.SwizzleTransform(128)
TILE = plgpu.TilingTransform((ATOM, CHANNELS))
WGMMA = plgpu.Layout.WGMMA


@dataclasses.dataclass(frozen=True)
class Strips:
    """How a batch (n, h, w, 64) is cut into strips, which thread blocks take in turn.

    Attributes:
        size: (n, h, w).
        atoms: Swizzle atoms of a row tile, which is 8 * atoms pixels wide.
        rows: Output rows of a strip, in rows of the input.
        blocks: Thread blocks.
        slots: Input rows that the ring holds.
    """

    size: tuple[int, int, int]
    atoms: int
    rows: int
    blocks: int
    slots: int

    @classmethod
    def plan(
        cls, size: tuple[int, int, int], *, atoms: int, step: int, blocks: int, staging: int
    ) -> Strips:
        """Choose the strip height that loses least to the last wave and to the halo rows."""
        n, h, w = size
        tiles = -(-w // (ATOM * atoms))
        slots = min(8, (_SHARED_BYTES - staging) // ((atoms + 2) * 1024))

        def cost(rows: int) -> float:
            return -(-n * tiles * (h // rows) // blocks) * (rows + _HALO_ROWS_COST)

        rows = min((r for r in range(step, h + 1, step) if h % r == 0), key=cost)
        return cls(size, atoms, rows, blocks, slots)

    def for_each(self, strip: Callable[..., None]) -> None:
        """Run strip(image, top row, first atom, first input row counted over all) for a block's."""
        n, h, w = self.size
        in_column = h // self.rows
        in_image = -(-w // (ATOM * self.atoms)) * in_column
        block = lax.axis_index("block")

        @pl.loop(0, lax.div(n * in_image - block + self.blocks - 1, self.blocks))
        def _(i: jax.Array) -> None:
            index = block + i * self.blocks
            place = lax.rem(index, in_image)
            top = lax.rem(place, in_column) * self.rows
            strip(
                lax.div(index, in_image),
                top,
                lax.div(place, in_column) * ATOM,
                i * (self.rows + 2),
            )


@dataclasses.dataclass(frozen=True)
class Ring:
    """Input rows in shared memory, with the barriers that hand them over.

    Attributes:
        strips: Its number of slots.
        tma: (slots, atoms + 2, 8, 64), for copies.
        mma: The same bytes as (slots, 8 * (atoms + 2), 64), for wgmma.
        full: Barriers, one a slot: its row has arrived.
        empty: Barriers, one a slot: every worker is done with it.
    """

    strips: Strips
    tma: Any
    mma: Any
    full: Any
    empty: Any

    def slot(self, row: Any) -> jax.Array:
        return lax.rem(row, self.strips.slots)

    def wait(self, row: Any) -> None:
        plgpu.barrier_wait(self.full.at[self.slot(row)])

    def release(self, row: Any) -> None:
        plgpu.barrier_arrive(self.empty.at[self.slot(row)])

    def pixels(self, row: Any, start: Any, count: int) -> Any:
        """View count pixels of a row, (count, 64), from place `start` in shared memory."""
        return self.mma.at[self.slot(row), pl.ds(start, count)]

    def load(self, x: Any) -> None:
        """Copy every row that the block's strips need, x being (n, h, w / atoms, atoms, 64)."""
        atoms, rows = self.strips.atoms, self.strips.rows

        def strip(image: Any, top: Any, first: Any, base: Any) -> None:
            @pl.loop(0, rows + 2)
            def _(k: jax.Array) -> None:
                slot, y = self.slot(base + k), top + k - 1
                pl.when(base + k >= self.strips.slots)(
                    lambda: plgpu.barrier_wait(self.empty.at[slot])
                )
                # The row, then the atom left of it and the one right of it.
                copies = (
                    (
                        x.at[image, y, pl.ds(first, ATOM)],
                        self.tma.at[slot, pl.ds(1, atoms)].transpose((1, 0, 2)),
                    ),
                    (x.at[image, y, pl.ds(first - 1, ATOM), atoms - 1], self.tma.at[slot, 0]),
                    (x.at[image, y, pl.ds(first + 1, ATOM), 0], self.tma.at[slot, atoms + 1]),
                )
                for source, target in copies:
                    plgpu.copy_gmem_to_smem(source, target, self.full.at[slot])

        self.strips.for_each(strip)


def two_views(
    m: int, atoms: int, dtype: Any, *, inner: int = CHANNELS, swizzled: bool = True
) -> Any:
    """Describe one buffer as (m, atoms, 8, inner), for copies, and (m, 8 * atoms, inner)."""
    copied, used = ((SWIZZLE,), (TILE, SWIZZLE)) if swizzled else ((), ())
    return plgpu.RefUnion(
        plgpu.SMEM((m, atoms, ATOM, inner), dtype, transforms=copied),
        plgpu.SMEM((m, ATOM * atoms, inner), dtype, transforms=used),
    )


@dataclasses.dataclass(frozen=True)
class Work:
    """What the warpgroups of a thread block do.

    Attributes:
        name: Of the kernel.
        make_strip: Of a ring, a worker, operands and scratch: what computes one strip.
        workers: Warpgroups that compute; one more copies rows.
        scratch: Shared memory and barriers of the workers.
        phases: How many times each strip is computed, differently.
        registers: Of a thread of the workers, and of the one that copies.
    """

    name: str
    make_strip: Callable[..., Any]
    workers: int
    scratch: tuple[Any, ...]
    phases: int = 1
    registers: tuple[int, int] | None = None

    def run(self, ring: Ring, x: Any, refs: tuple[Any, ...], scratch: tuple[Any, ...]) -> None:
        """Run the part of this warpgroup."""
        warpgroup = lax.axis_index("warpgroup")

        @pl.when(warpgroup == self.workers)
        def _() -> None:
            if self.registers:
                plgpu.set_max_registers(self.registers[1], action="decrease")
            ring.load(x)

        @pl.when(warpgroup < self.workers)
        def _() -> None:
            if self.registers:
                plgpu.set_max_registers(self.registers[0], action="increase")
            ring.strips.for_each(self.make_strip(ring, warpgroup, refs, scratch))
            plgpu.wait_smem_to_gmem(0)


def launch(
    x: jax.Array,
    operands: list[jax.Array],
    result: jax.ShapeDtypeStruct,
    strips: Strips,
    work: Work,
) -> jax.Array:
    """Stream strips of x (n, h, w, 64) through shared memory to the workers."""
    n, h, w = strips.size

    def body(x: Any, *refs: Any) -> None:
        def scoped(views: Any, full: Any, empty: Any, *scratch: Any) -> None:
            work.run(Ring(strips, *views, full, empty), x, refs, scratch)

        pl.run_scoped(
            scoped,
            two_views(strips.slots, strips.atoms + 2, x.dtype),
            plgpu.Barrier(num_arrivals=3, num_barriers=strips.slots),
            plgpu.Barrier(num_arrivals=work.workers, num_barriers=strips.slots),
            *work.scratch,
            collective_axes="warpgroup",
        )

    kernel = plgpu.kernel(
        body,
        out_type=result,
        grid=(strips.blocks, work.phases),
        grid_names=("block", "phase"),
        num_threads=work.workers + 1,
        thread_name="warpgroup",
        kernel_name=f"{work.name}_{h}x{w}",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
    )
    return kernel(x.reshape(n, h, w // strips.atoms, strips.atoms, CHANNELS), *operands)

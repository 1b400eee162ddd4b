"""The convolution from 64 to 64 channels, also of an input enlarged twice."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from .rows import ATOM, CHANNELS, WGMMA, Ring, Strips, Work, launch, two_views
from .tiles import Tiles

# Registers of a thread: of the workers, which hold the weights, and of the warpgroup that copies.
_REGISTERS = (240, 24)


# Compiled as functions of their own, so that equal layers share one kernel.
@functools.partial(jax.jit, static_argnames=("relu", "multiprocessors"))
def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    skip: jax.Array | None = None,
    *,
    relu: bool = False,
    multiprocessors: int,
) -> jax.Array:
    """Return the convolution of x, zero padded, plus bias and skip, through a ReLU if asked for.

    Args:
        x: (n, h, w, 64), bfloat16 or float16; h even, w a multiple of 8.
        kernel: (3, 3, 64, 64), HWIO.
        bias: (64,).
        skip: (n, h, w, 64).
        relu: Whether to end with a ReLU.
        multiprocessors: Of the device; any number is right, its own is fastest.
    """
    taps = kernel.reshape(9, CHANNELS, CHANNELS)
    return _convolve(x, taps, bias, skip, relu=relu, multiprocessors=multiprocessors)


@functools.partial(jax.jit, static_argnames="multiprocessors")
def upsample_conv(x: jax.Array, kernel: jax.Array, *, multiprocessors: int) -> jax.Array:
    """Return the convolution of x enlarged twice by nearest neighbour, (n, 2h, 2w, 64).

    A pixel of the result sees 2x2 pixels of x. For each of the four places that it may have in its
    square that is a 2x2 convolution with sums of the nine taps.

    Args:
        x: (n, h, w, 64), bfloat16 or float16; w a multiple of 8.
        kernel: (3, 3, 64, 64), HWIO.
        multiprocessors: As for `conv`.
    """

    def fold(taps: Any) -> Any:
        return (taps[0], taps[1] + taps[2]), (taps[0] + taps[1], taps[2])

    rows = fold(kernel.astype(jnp.float32))
    places = [(a, b, p, q) for a in (0, 1) for b in (0, 1) for p in (0, 1) for q in (0, 1)]
    taps = jnp.stack([fold(rows[a][p])[b][q] for a, b, p, q in places])  # (16, 64, 64)
    return _convolve(x, taps, None, None, relu=False, multiprocessors=multiprocessors)


def _convolve(
    x: jax.Array,
    taps: jax.Array,
    bias: jax.Array | None,
    skip: jax.Array | None,
    *,
    relu: bool,
    multiprocessors: int,
) -> jax.Array:
    n, h, w, _ = x.shape
    up = 1 if len(taps) == 9 else 2
    atoms = next((g for g in (32, 16, 8)[2 - up :] if w % (ATOM * g) == 0), 8)
    form = _Form(up, h, atoms, relu, bias is not None, skip is not None)
    strips = Strips.plan(
        (n, h, w),
        atoms=atoms,
        step=form.step,
        blocks=multiprocessors // up,
        staging=2 * form.buffers * atoms * 1024,
    )
    shape = (n * up * h, w // atoms, atoms, up, CHANNELS)
    operands = [taps.astype(x.dtype)]
    operands += [] if bias is None else [bias]
    operands += [] if skip is None else [skip.reshape(shape)]
    scratch = (
        two_views(2 * form.buffers, atoms, x.dtype),
        plgpu.Barrier(num_barriers=2 * form.buffers),
        plgpu.Barrier(num_barriers=2),
    )
    work = Work(form.name, form.make_strip, 2, scratch, phases=up, registers=_REGISTERS)
    out = launch(x, operands, jax.ShapeDtypeStruct(shape, x.dtype), strips, work)
    return out.reshape(n, up * h, up * w, CHANNELS)


@dataclasses.dataclass(frozen=True)
class _Form:
    """What a worker computes: D^T (64, 8 * atoms), summed over taps of K^T (64, 64) times X^T.

    The weights stay in registers. With nine taps worker i makes output row 2t + i. With sixteen,
    for an enlarged input, it makes output row 2t + phase, columns 2x + i. The two workers take
    turns at the tensor cores.
    """

    up: int
    height: int
    atoms: int
    relu: bool
    has_bias: bool
    has_skip: bool

    @property
    def step(self) -> int:
        """Rows of the input that a step moves on by."""
        return 3 - self.up

    @property
    def side(self) -> int:
        """Side of the square of taps."""
        return 4 - self.up

    @property
    def buffers(self) -> int:
        """Row tiles of the result that a worker holds; the skip of the next one is on its way."""
        return 2 if self.has_skip else 1

    @property
    def name(self) -> str:
        return ("conv", "upsample_conv")[self.up - 1] + "_skip" * self.has_skip

    def make_strip(
        self, ring: Ring, worker: Any, refs: tuple[Any, ...], scratch: tuple[Any, ...]
    ) -> Callable[..., None]:
        """Load the weights and return what computes one strip."""
        taps, *rest = refs
        phase = lax.axis_index("phase")
        row, column = (worker, 0) if self.up == 1 else (phase, worker)
        # Which of the sixteen taps: those of the place in the square, (phase, worker).
        start = 0 if self.up == 1 else 8 * phase + 4 * worker
        weights = [self._weights(taps, start + i) for i in range(self.side**2)]
        first = self._first_sums(rest)
        skip, out = rest[-2] if self.has_skip else None, rest[-1]
        tiles = Tiles(self.up, self.height, self.relu, skip, out, worker, row, column, *scratch)
        pl.when(worker == 1)(lambda: plgpu.barrier_arrive(tiles.turn.at[0]))

        def strip(image: Any, top: Any, atom: Any, base: Any) -> None:
            place = tiles.of_strip(image, top, atom)
            steps = ring.strips.rows // self.step
            if self.has_skip:
                tiles.fetch_skip(place, jnp.int32(0), steps)
            ring.wait(base)
            ring.wait(base + 1)

            @pl.loop(0, steps)
            def _(t: jax.Array) -> None:
                k = base + self.step * t
                for i in range(self.step):
                    ring.wait(k + 2 + i)

                def multiply(sums: Any) -> None:
                    plgpu.barrier_wait(tiles.turn.at[worker])
                    self._add_products(sums, weights, ring, k, (row, column))
                    if self.has_skip:
                        tiles.fetch_skip(place, t + 1, steps)
                    # The other worker may begin while the last product of this one runs.
                    plgpu.wgmma_wait(1)
                    plgpu.barrier_arrive(tiles.turn.at[1 - worker])
                    plgpu.wgmma_wait(0)

                sums = pl.run_state(multiply)(plgpu.ACC.init(first))
                for i in range(self.step):
                    ring.release(k + i)
                tiles.store(place, t, sums)

            if self.has_skip:
                plgpu.barrier_wait(tiles.arrived.at[tiles.buffer(steps)])
            ring.release(base + ring.strips.rows)
            ring.release(base + ring.strips.rows + 1)

        return strip

    def _add_products(
        self, sums: Any, weights: list[Any], ring: Ring, k: Any, place: tuple[Any, Any]
    ) -> None:
        row, column = place
        for i, weight in enumerate(weights):
            y, x = row + i // self.side, ATOM * (column + i % self.side)
            pixels = ring.pixels(k + y, x, ATOM * self.atoms)
            plgpu.wgmma(sums, weight, pixels.transpose((1, 0)))

    def _weights(self, taps: Any, index: Any) -> Any:
        tap = plgpu.load(
            taps.at[index].transpose((1, 0)),
            optimized=False,
            layout=plgpu.Layout.WGMMA_TRANSPOSED,
        )
        return plgpu.layout_cast(tap, WGMMA)

    def _first_sums(self, refs: list[Any]) -> Any:
        """Return the float32 sums (64, 8 * atoms) to begin with: the bias, or zeros."""
        shape = (CHANNELS, ATOM * self.atoms)
        if not self.has_bias:
            return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), WGMMA)
        bias = plgpu.load(refs[0], layout=WGMMA.reduce(1), optimized=False)
        return lax.broadcast_in_dim(bias.astype(jnp.float32), shape, (0,))

"""The convolution from 64 channels to an image."""

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

from .rows import ATOM, CHANNELS, SWIZZLE, TILE, WGMMA, Ring, Strips, Work, launch, two_views

_WORKERS, _ATOMS = 4, 32
_COLUMNS = 8  # of a product: the most channels of an image, and what a wgmma takes at least
_PIXELS = 64  # that a worker multiplies at a time


@functools.partial(jax.jit, static_argnames="multiprocessors")
def conv_to_image(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, multiprocessors: int
) -> jax.Array:
    """Return the convolution of x, zero padded, plus bias: (n, h, w, c).

    In one pass over x: each row is multiplied by the taps of three output rows at once, 3 * 8
    columns wide, and sums of three rows are kept in registers.

    Args:
        x: (n, h, w, 64), bfloat16 or float16; w a multiple of 32.
        kernel: (3, 3, 64, c), HWIO, of at most 8 channels.
        bias: (c,).
        multiprocessors: Of the device; any number is right, its own is fastest.
    """
    n, h, w, _ = x.shape
    channels = kernel.shape[3]
    taps = jnp.transpose(kernel, (1, 0, 3, 2)).astype(x.dtype)  # (3 columns, 3 rows, c, 64)
    taps = jnp.pad(taps, ((0, 0), (0, 0), (0, _COLUMNS - channels), (0, 0)))
    operands = [taps.reshape(3, 3 * _COLUMNS, CHANNELS)]
    if bias is not None:
        operands.append(jnp.pad(bias, (0, _COLUMNS - channels)))
    strips = Strips.plan((n, h, w), atoms=_ATOMS, step=1, blocks=multiprocessors, staging=32 * 1024)
    scratch = (
        two_views(2 * _WORKERS, ATOM, x.dtype, inner=_COLUMNS, swizzled=False),
        plgpu.SMEM((3, 3 * _COLUMNS, CHANNELS), x.dtype, transforms=(TILE, SWIZZLE)),
        plgpu.Barrier(num_arrivals=3),
    )
    work = Work("conv_to_image", _Form(h, bias is not None).make_strip, _WORKERS, scratch)
    result = jax.ShapeDtypeStruct((n * h, w // _ATOMS, _ATOMS, _COLUMNS), x.dtype)
    out = launch(x, operands, result, strips, work)
    return out.reshape(n, h, w, _COLUMNS)[..., :channels]


@dataclasses.dataclass(frozen=True)
class _Form:
    """What a worker computes: 64 pixels of each row, (64, 8) for each of three output rows."""

    height: int
    has_bias: bool

    def make_strip(
        self, ring: Ring, worker: Any, refs: tuple[Any, ...], scratch: tuple[Any, ...]
    ) -> Callable[..., None]:
        """Copy the taps to shared memory and return what computes one strip."""
        kernel, out = refs[0], refs[-1]
        (copied, stored), taps, loaded = scratch
        start = self._first_sums(refs)

        @pl.when(worker == 0)
        def _() -> None:
            for i in range(3):
                plgpu.copy_gmem_to_smem(kernel.at[i], taps.at[i], loaded)

        plgpu.barrier_wait(loaded)

        def multiply(sums: Any, row: Any) -> None:
            for i in range(3):
                pixels = ring.pixels(row, _PIXELS * worker + ATOM * i, _PIXELS)
                plgpu.wgmma(sums, pixels, taps.at[i].transpose((1, 0)))
            plgpu.wgmma_wait(0)

        def strip(image: Any, top: Any, atom: Any, base: Any) -> None:
            def store(k: Any, rows: Any) -> None:
                buffer = 2 * worker + lax.rem(k, 2)
                plgpu.wait_smem_to_gmem(1, wait_read_only=True)
                stored[buffer] = rows.astype(out.dtype)
                plgpu.commit_smem()
                place = (
                    image * self.height + top + k - 2,
                    pl.ds(atom, ATOM),
                    pl.ds(ATOM * worker, ATOM),
                )
                plgpu.copy_smem_to_gmem(copied.at[buffer].transpose((1, 0, 2)), out.at[place])

            def row(k: Any, carry: Any) -> Any:
                # Output rows k - 1 and k - 2, as far as the input rows before k reach.
                below, here = carry
                ring.wait(base + k)
                sums = pl.run_state(lambda sums: multiply(sums, base + k))(
                    plgpu.ACC.init(_zeros(3 * _COLUMNS))
                )
                ring.release(base + k)
                pl.when(k >= 2)(lambda: store(k, here + sums[:, 2 * _COLUMNS :]))
                return start + sums[:, :_COLUMNS], below + sums[:, _COLUMNS : 2 * _COLUMNS]

            lax.fori_loop(0, ring.strips.rows + 2, row, (start, start))

        return strip

    def _first_sums(self, refs: tuple[Any, ...]) -> Any:
        if not self.has_bias:
            return _zeros(_COLUMNS)
        bias = plgpu.load(refs[1], layout=WGMMA.reduce(0), optimized=False)
        return lax.broadcast_in_dim(bias.astype(jnp.float32), (_PIXELS, _COLUMNS), (1,))


def _zeros(columns: int) -> Any:
    return plgpu.layout_cast(jnp.zeros((_PIXELS, columns), jnp.float32), WGMMA)

"""Pictures too large to hold: decoded and encoded a strip at a time, from file to file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import taesd_jax

from ..autoencoder import AutoencoderTiny
from ..errors import PictureError
from ..io.arrays import GrowingArray, open_array
from ..io.images import from_uint8, to_uint8
from ..io.latents import check_finite
from ..strategies.iterators import iter_decode, iter_encode
from ..strategies.strategy import Strips, min_full_stages
from ..weights.files import digest_tree

# After a kill at most so much work is done again.
_FLUSH_SECONDS = 2


class PaddedPixels:
    """8-bit pixels (h, w, 3) as a float image (1, h', w', 3), padded by their edge, cut by rows.

    Args:
        pixels: A mapped file.
        multiple: What divides the sides after padding.
    """

    dtype = np.dtype("float32")

    def __init__(self, pixels: np.ndarray, multiple: int):
        h, w, _ = pixels.shape
        self.pixels = pixels
        self.shape = (1, h + -h % multiple, w + -w % multiple, 3)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        _, rows = key
        start, stop, _ = rows.indices(self.shape[1])
        h, w, _ = self.pixels.shape
        strip = np.asarray(self.pixels[min(start, h - 1) : min(stop, h)])
        padding = ((0, stop - start - len(strip)), (0, self.shape[2] - w), (0, 0))
        return from_uint8(np.pad(strip, padding, mode="edge"))[None]


def decode_large(
    vae: AutoencoderTiny,
    source: Path,
    latent: np.ndarray,
    target: Path,
    *,
    size: tuple[int, int],
    layout: str | None,
) -> str:
    """Decode one latent (1, h, w, z) into a .npy or TIFF file of 8-bit pixels.

    Args:
        vae: The model.
        source: File of the latent.
        latent: Its content.
        target: File of the pixels.
        size: Height and width to crop to.
        layout: How the latent was read.
    """
    if latent.shape[0] != 1:
        raise PictureError(f"{source}: a {target.suffix} takes one picture, got {latent.shape[0]}")
    config, (h, w) = vae.config, size
    job = [*_job("decode", vae, source), layout]
    array = GrowingArray(target, (h, w, 3), "uint8", job=job)
    strategy = Strips(min_full_stages(config), _rows(w))

    def strips(start: int) -> Iterator[np.ndarray]:
        options: dict[str, Any] = {"strategy": strategy, "dtype": vae.dtype, "start": start}
        for strip in iter_decode(vae.params, latent, config=config, **options):
            yield to_uint8(np.asarray(strip[0, :, :w]))

    resumed = _fill(array, strips, source)
    return f"{target}: {w}x{h}{resumed}"


def encode_large(vae: AutoencoderTiny, source: Path, target: Path) -> str:
    """Encode a .npy or TIFF file of 8-bit pixels (h, w, 3) into a .npy latent (1, h', w', z)."""
    if target.suffix.lower() != ".npy":
        raise PictureError(
            f"{source}: its latent is written as .npy: pass --format npy, or name it so with -o"
        )
    pixels = open_array(source)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise PictureError(
            f"{source}: expected 8-bit pixels (h, w, 3), got {pixels.dtype} {pixels.shape}"
        )
    image: Any = PaddedPixels(pixels, vae.config.spatial_factor)
    _, h, w, _ = (side // vae.config.spatial_factor for side in image.shape)
    shape = (1, h, w, vae.config.latent_channels)
    # As other latents in .npy: what bfloat16 holds is float32 on disk.
    dtype = np.dtype("float16" if vae.dtype == np.float16 else "float32")
    array = GrowingArray(target, shape, dtype.name, job=_job("encode", vae, source))
    strategy = Strips(rows=_rows(image.shape[2]))

    def strips(start: int) -> Iterator[np.ndarray]:
        options: dict[str, Any] = {"strategy": strategy, "dtype": vae.dtype, "start": start}
        for strip in iter_encode(vae.params, image, config=vae.config, **options):
            latent = np.asarray(strip[0]).astype(dtype)
            check_finite(latent)
            yield latent

    resumed = _fill(array, strips, source)
    return f"{target}: latent {h}x{w}x{shape[3]}{resumed}"


def _rows(width: int) -> int:
    """Return rows of latents to a strip, fewer for wide pictures: a strip's memory is bounded."""
    return max(1, min(4, 2**14 // width))


def _fill(array: GrowingArray, strips: Callable[[int], Iterable[np.ndarray]], source: Path) -> str:
    """Append the strips from its row on; return a note if the first rows were there."""
    resumed = f", resumed at row {array.rows}" if array.rows else ""
    progress, flushed = sys.stderr.isatty(), time.monotonic()
    try:
        for strip in strips(array.rows) if array.rows < array.height else ():
            array.append(strip[: array.height - array.rows])
            if time.monotonic() - flushed >= _FLUSH_SECONDS:
                array.flush()
                flushed = time.monotonic()
            if progress:
                share = array.rows / array.height
                print(f"\r\033[K{source}: {share:.0%}", end="", file=sys.stderr, flush=True)
        array.close()
    except PictureError:  # would come again
        array.discard()
        raise
    except BaseException:
        array.stop()
        raise
    finally:
        if progress:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    return resumed


def _job(name: str, vae: AutoencoderTiny, source: Path) -> list[Any]:
    """Return everything that the result depends on, in JSON's types."""
    status = os.stat(source)
    return [
        name,
        taesd_jax.__version__,
        str(vae.dtype),
        vae.config.to_dict(),
        digest_tree(vae.params),
        os.fspath(source.resolve()),
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]

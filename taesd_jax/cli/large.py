"""Images larger than memory, encoded and decoded strip by strip from file to file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..autoencoder import AutoencoderTiny
from ..errors import MediaFileError
from ..io.arrays import ResumableArrayWriter, open_array
from ..io.files import signature
from ..io.images import from_uint8, to_uint8
from ..io.latents import check_finite
from ..strategies.iterators import iter_decode, iter_encode
from ..strategies.strategy import Strips, min_full_stages
from ..version import __version__
from ..weights.files import digest_tree
from .terminal import Show

# Work that may be lost when the process is killed.
_FLUSH_SECONDS = 2


class PaddedPixels:
    """Present 8-bit pixels (h, w, 3) as an edge-padded float image (1, h', w', 3), read by rows.

    Args:
        pixels: Array mapped from a file.
        multiple: Sides are padded to a multiple of this.
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
        padding = ((0, stop - start - len(strip)), (0, self.shape[2] - w), (0, 0))  # (h, w, 3)
        return from_uint8(np.pad(strip, padding, mode="edge"))[None]


def decode_large(
    vae: AutoencoderTiny,
    source: Path,
    latent: np.ndarray,
    target: Path,
    *,
    size: tuple[int, int],
    reading: dict[str, Any],
    show: Show,
) -> str:
    """Decode a latent (1, h, w, z) into a .npy or TIFF file of 8-bit pixels.

    Args:
        vae: Model.
        source: File of the latent.
        latent: Latent of that file.
        target: File to write.
        size: Height and width to crop to.
        reading: How that file was read, as JSON types.
        show: Shows progress.

    Returns:
        A note if rows of an earlier run were there.
    """
    if latent.shape[0] != 1:
        raise MediaFileError(
            f"{source}: {target.suffix} files hold one image, got {latent.shape[0]}"
        )
    config, (h, w) = vae.config, size
    job = [*_job("decode", vae, source), reading]
    software = signature("decode")
    array = ResumableArrayWriter(target, (h, w, 3), "uint8", job=job, software=software)
    strategy = Strips(min_full_stages(config), _strip_rows(w))

    def strips(start: int) -> Iterator[np.ndarray]:
        options: dict[str, Any] = {"strategy": strategy, "dtype": vae.dtype, "start": start}
        for strip in iter_decode(vae.params, latent, config=config, **options):
            yield to_uint8(np.asarray(strip[0, :, :w]))

    return _fill(array, strips, source, show)


def encode_large(
    vae: AutoencoderTiny, source: Path, target: Path, show: Show
) -> tuple[tuple[int, ...], str]:
    """Encode a .npy or TIFF file of 8-bit pixels (h, w, 3) into a .npy file of a latent.

    It returns the latent's shape (h, w, z), and a note as `decode_large` does.

    .npy holds neither the model nor the image's size, so `decode` cannot check or crop to them.
    """
    if target.suffix.lower() != ".npy":
        raise MediaFileError(
            f"{source}: its latent is written as .npy: pass --format npy or a name in .npy to -o"
        )
    pixels = open_array(source)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise MediaFileError(
            f"{source}: expected 8-bit pixels (h, w, 3), got {pixels.dtype} {pixels.shape}"
        )
    image: Any = PaddedPixels(pixels, vae.config.spatial_factor)
    _, h, w, _ = (side // vae.config.spatial_factor for side in image.shape)
    shape = (1, h, w, vae.config.latent_channels)
    # .npy cannot hold bfloat16.
    dtype = np.dtype("float16" if vae.dtype == np.float16 else "float32")
    array = ResumableArrayWriter(target, shape, dtype.name, job=_job("encode", vae, source))
    strategy = Strips(rows=_strip_rows(image.shape[2]))

    def strips(start: int) -> Iterator[np.ndarray]:
        options: dict[str, Any] = {"strategy": strategy, "dtype": vae.dtype, "start": start}
        for strip in iter_encode(vae.params, image, config=vae.config, **options):
            latent = np.asarray(strip[0]).astype(dtype)
            check_finite(latent)
            yield latent

    return shape[1:], _fill(array, strips, source, show)


def _strip_rows(width: int) -> int:
    """Return latent rows per strip, fewer for wide images to bound the memory of a strip."""
    return max(1, min(4, 2**14 // width))


def _fill(
    array: ResumableArrayWriter,
    strips: Callable[[int], Iterable[np.ndarray]],
    source: Path,
    show: Show,
) -> str:
    """Append the remaining strips; return a note if rows of an earlier run were there."""
    resumed = f", resumed at row {array.rows}" if array.rows else ""
    flushed = time.monotonic()
    show(f"{source}: compiling for its width")
    try:
        for strip in strips(array.rows) if array.rows < array.height else ():
            array.append(strip[: array.height - array.rows])
            if time.monotonic() - flushed >= _FLUSH_SECONDS:
                array.flush()
                flushed = time.monotonic()
            show(f"{source}: {array.rows / array.height:.0%}")
        array.close()
    except (ValueError, TypeError):  # a restart would fail again
        array.discard()
        raise
    except BaseException:
        array.suspend()
        raise
    return resumed


def _job(name: str, vae: AutoencoderTiny, source: Path) -> list[Any]:
    """Return everything that the result depends on, as JSON types."""
    status = os.stat(source)
    return [
        name,
        __version__,
        str(vae.dtype),
        vae.config.to_dict(),
        digest_tree(vae.params),
        os.fspath(source.resolve()),
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]

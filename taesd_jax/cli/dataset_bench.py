"""What `taesd-jax bench --dataset` measures: encode-dataset beside the encoder alone."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..autoencoder import AutoencoderTiny
from ..datasets.batches import Encoder, make_encoder
from ..datasets.formats import FORMATS
from ..datasets.pictures import load_picture, square
from ..datasets.records import STORES, Record, pack, unpack
from ..io.images import pad_image, psnr, read_image, read_pixels
from ..weights.sources import BUNDLED
from .counts import describe_machine
from .options import expand_images, load_vae
from .outputs import write_json
from .terminal import say

# Of the made pictures; photographs on the web have 75 to 95.
_QUALITY = 90
_DECODED = 64
_IN_FLIGHT = 2
_LEAST_RECORDS = 256


def run_dataset_bench(args: argparse.Namespace) -> int:
    """Measure encode-dataset on made JPEG images, decoders of JPEG, and what latents take."""
    size, photos = args.sizes[0], expand_images(args.images or [str(BUNDLED / "sample.jpg")])
    vae = load_vae(args.dataset, dtype=args.dtypes[0])
    encoder = make_encoder(vae)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        _make_images(source, photos, size, args.count)
        times, latents = _time_in_turn(args, encoder, source, size)
        report = {
            "date": datetime.date.today().isoformat(),
            "model": args.dataset,
            "size": size,
            "count": args.count,
            **describe_machine(),
            "seconds": times,
            "decoding_ms": _decoding_costs(source, size),
            "psnr": _psnr_of_stores(load_vae(args.dataset), photos),
            "bytes": _bytes(latents),
        }
    _print(report)
    if args.json:
        write_json(args, args.json, report)
    return 0


def _make_images(folder: Path, photos: list[Path], size: int, count: int) -> None:
    """Write JPEG files of crops of photographs, resized."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(read_pixels(path)) for path in photos]
    for i in range(count):
        photo = sources[i % len(sources)]
        side = int(rng.uniform(0.5, 1) * min(photo.size))
        left, top = (int(rng.integers(0, whole - side + 1)) for whole in photo.size)
        box = (left, top, left + side, top + side)
        photo.resize((size, size), Image.Resampling.LANCZOS, box).save(
            folder / f"{i:06}.jpg", quality=_QUALITY
        )


def _time_in_turn(
    args: argparse.Namespace, encoder: Encoder, source: Path, size: int
) -> tuple[dict[str, list[tuple[float, float]]], list[np.ndarray]]:
    """Return wall and CPU seconds of the encoder alone and of the command, and the latents."""
    from .command import main

    pixels = [read_pixels(path) for path in sorted(source.iterdir())]
    latents = _encode(encoder, pixels)  # compiles

    def command() -> None:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            words = ["encode-dataset", str(source), f"{name}/latents", "--size", str(size)]
            words += ["--model", args.dataset, "--dtype", args.dtypes[0]]
            if main(words):
                raise RuntimeError("encode-dataset failed")

    runs = {"encoder": lambda: _encode(encoder, pixels), "encode-dataset": command}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.process_time()
            times[name].append((_seconds(run), time.process_time() - start))
    return times, latents


def _encode(encoder: Encoder, pixels: list[np.ndarray]) -> list[np.ndarray]:
    """Return the latents of images of one size, with one batch under way beside another."""
    size = encoder.batch_of(pixels[0].shape)
    running: collections.deque[Any] = collections.deque()
    latents: list[np.ndarray] = []
    for first in range(0, len(pixels), size):
        batch = np.stack(pixels[first : first + size])
        running.append(encoder.encode(np.pad(batch, ((0, size - len(batch)), *((0, 0),) * 3))))
        if len(running) > _IN_FLIGHT:
            latents += [*np.asarray(running.popleft(), np.float32)]
    for batch in running:
        latents += [*np.asarray(batch, np.float32)]
    return latents[: len(pixels)]


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _decoding_costs(source: Path, size: int) -> dict[str, float]:
    """Return milliseconds on one core to decode a picture, by decoder; the least of three runs."""
    from PIL import Image

    files = [path.read_bytes() for path in sorted(source.iterdir())[:_DECODED]]
    geometry = square(size, multiple=1)
    decoders: dict[str, Callable[[bytes], Any]] = {
        "encode-dataset": lambda data: load_picture(data, "", geometry),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    with contextlib.suppress(ImportError):
        from simplejpeg import decode_jpeg  # pyright: ignore[reportMissingImports]

        decoders["simplejpeg"] = decode_jpeg
    return {
        name: 1e3 * min(_seconds(lambda d=d: [*map(d, files)]) for _ in range(3)) / len(files)
        for name, d in decoders.items()
    }


def _psnr_of_stores(vae: AutoencoderTiny, photos: list[Path]) -> dict[str, list[float]]:
    """Return the PSNR in dB of each photograph as decoded from a store and from float32."""
    values: dict[str, list[float]] = {store: [] for store in STORES if store != "float32"}
    for path in photos:
        image = pad_image(read_image(path), vae.config.spatial_factor)
        record = _record(np.asarray(vae.encode(image[None]).latents)[0])
        exact = np.asarray(vae.decode(record.latent[None]).sample)[0]
        for store, row in values.items():
            latent = unpack(pack(record, store)).latent
            row.append(psnr(np.asarray(vae.decode(latent[None]).sample)[0], exact))
    return values


def _bytes(latents: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the bytes a picture by format, where it is installed, and by store."""
    # So many that what a file has apart from records does not count. Copies of 32 images or more
    # lie in different groups of rows, which are compressed apart.
    records = [_record(latent) for latent in latents] * -(-_LEAST_RECORDS // len(latents))
    sizes: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(ModuleNotFoundError):
        for format in reversed(FORMATS):
            path = Path(name) / format
            for store in STORES:
                packed = [pack(record, store) for record in records]
                FORMATS[format].write_shard(path, packed, metadata={})
                sizes.setdefault(format, {})[store] = path.stat().st_size / len(records)
                path.unlink()
    return sizes


def _record(latent: np.ndarray) -> Record:
    return Record("000000.jpg", latent, (512, 512), (0, 0, 512, 512), False, {})


def _print(report: dict[str, Any]) -> None:
    say(f"{report['cpu']}, {report['device']}, {os.cpu_count()} CPUs, {report['date']}")
    say(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    say(f"{report['count']} JPEG images of {report['size']}x{report['size']}, median of rounds:")
    for name, times in report["seconds"].items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        each = report["count"]
        say(f"  {name}: {each / wall:.2f} a second, {1e3 * cpu / each:.1f} ms of CPU time for each")
    costs = ", ".join(f"{name} {ms:.2f} ms" for name, ms in report["decoding_ms"].items())
    say(f"decoding one on one core: {costs}")
    say(f"{'':10}{'PSNR, dB':>16}" + "".join(f"{format:>14}" for format in report["bytes"]))
    for store in STORES:
        values = report["psnr"].get(store)
        text = f"{min(values):.1f} to {max(values):.1f}" if values else "exact"
        sizes = "".join(f"{row[store]:>14,.0f}" for row in report["bytes"].values())
        say(f"{store:10}{text:>16}{sizes}")

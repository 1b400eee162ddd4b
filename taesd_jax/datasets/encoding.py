"""A shard of a plan, encoded and written: what every engine calls."""

from __future__ import annotations

import collections
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..autoencoder import AutoencoderTiny
from ..errors import MediaFileError, describe_error, one_line
from ..weights.files import digest_tree
from .batches import Batches, Encoder, make_encoder
from .locations import check_root
from .manifest import Failure, ShardReport, read_report
from .pictures import Picture, load_picture, mirror
from .plan import Plan
from .records import Record, pack
from .shards import Encoded, write_shard
from .sources import Item, read_item

# Pictures that each decoder is ahead of the encoder.
_AHEAD = 3


class Progress(NamedTuple):
    """How far the work on a shard is.

    Attributes:
        inputs: Number of inputs that are done, those that failed included.
        failures: How many of them failed.
        decoding: Seconds of work of all decoders together.
        device: Seconds that the device was at work.
    """

    inputs: int = 0
    failures: int = 0
    decoding: float = 0.0
    device: float = 0.0


class Reporter(Protocol):
    """What engines tell how far the work is."""

    def observe(self, index: int, progress: Progress) -> None:
        """Take the progress of a shard."""

    def finish(self, report: ShardReport) -> None:
        """Take the report on a shard that was written."""


class Options(NamedTuple):
    """How shards are made, which changes nothing in them.

    Attributes:
        workers: Threads that decode; None for one a CPU.
        max_failures: End with an error once more inputs of this shard have failed.
        excluded: Keys of inputs that fail without being read, and why.
        observe: Is told how far the work is; its result is ignored.
    """

    workers: int | None = None
    max_failures: int | None = None
    excluded: Mapping[str, str] = {}
    observe: Callable[[Progress], object] = bool


def encode_shard(
    plan: Plan,
    index: int,
    *,
    vae: AutoencoderTiny | None = None,
    encoder: Encoder | None = None,
    options: Options = Options(),  # noqa: B008 (never changed)
) -> ShardReport:
    """Encode and write a shard, unless that is done.

    Processes may work on one data set, on different shards each.

    Args:
        plan: What `load_plan` returns.
        index: Number of the shard.
        vae: The model of the plan.
        encoder: Instead of `vae`, what `place_encoder` returns.
        options: How.

    Raises:
        ValueError: It is another model.
        MediaFileError: Too many inputs failed.
        OSError: The shard cannot be written.
    """
    if report := read_report(plan.shard_path(index)):
        return report
    if encoder is None:
        encoder = place_encoder(plan, vae)
    return write_shard(plan, index, encode_items(plan, plan.items(index), encoder, options))


def place_encoder(
    plan: Plan, vae: AutoencoderTiny | None, *, batch_size: int | None = None
) -> Encoder:
    """Place the model of a plan on the devices of this process.

    Args:
        plan: The plan.
        vae: The model.
        batch_size: Images at a time; by default what fits their size, or one on each device if
            pictures keep their sizes, of which there may be many.

    Raises:
        ValueError: It is another model.
    """
    digest = digest_tree(vae.params.get("encoder")) if vae else ""
    if vae is None or digest != plan.settings["encoder_sha256"]:
        raise ValueError(f"expected the model that {plan.folder} was planned for, got {vae}")
    batch_size = batch_size or (None if plan.settings["sizes"] else 1)
    vae = AutoencoderTiny(vae.params, vae.config, dtype=plan.settings["dtype"])
    return make_encoder(vae, batch_size=batch_size)


def encode_items(plan: Plan, items: Sequence[Item], encoder: Encoder, options: Options) -> Encoded:
    """Encode inputs in batches of one shape; those that cannot be read become failures.

    Raises:
        MediaFileError: Too many failed.
    """
    start, decoding, done, batches = time.perf_counter(), 0.0, 0, Batches(encoder)
    records: list[list[Record]] = [[] for _ in items]
    failures: dict[int, Failure] = {}

    def keep(encoded: Iterable[tuple[Any, np.ndarray]]) -> None:
        nonlocal done
        for (i, picture, flipped, fields), latent in encoded:
            size, crop = picture.image_size, picture.crop
            record = Record(items[i].key, latent, size, crop, flipped, fields)
            try:
                records[i].append(pack(record, plan.settings["store"]))
            except ValueError as error:
                fail(i, error)
            done += not record.flipped

    def fail(i: int, error: Exception) -> None:
        failures[i] = Failure(items[i].key, one_line(describe_error(error)))
        if options.max_failures is not None and len(failures) > options.max_failures:
            listed = "; ".join(f"{f.key}: {f.reason}" for f in list(failures.values())[:3])
            raise MediaFileError(f"more inputs failed than --max-failures: {listed}")

    for i, loaded in _load_all(plan, items, options):
        if isinstance(loaded, Exception):
            fail(i, loaded)
            done += 1
        else:
            picture, fields, seconds = loaded
            decoding += seconds
            for flipped in (False, True) if plan.settings["flip"] else (False,):
                pixels = mirror(picture, plan.geometry.multiple) if flipped else picture.pixels
                keep(batches.add((i, picture, flipped, fields), pixels))
        options.observe(Progress(done, len(failures), decoding, batches.device_seconds))
    keep(batches.flush())
    options.observe(Progress(done, len(failures), decoding, batches.device_seconds))
    kept = (each for i, each in enumerate(records) if i not in failures)
    return Encoded(
        [*itertools.chain.from_iterable(kept)],
        [failures[i] for i in sorted(failures)],
        len(items),
        time.perf_counter() - start,
    )


def count_cpus() -> int:
    """Return the number of CPUs that this process may use, of an allocation on a larger machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_all(
    plan: Plan, items: Sequence[Item], options: Options
) -> Iterator[tuple[int, tuple[Picture, dict[str, Any], float] | Exception]]:
    """Decode with several threads, a little ahead; yield pictures or errors in order."""
    workers = options.workers or count_cpus()
    left, pending = iter(enumerate(items)), collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for i, item in itertools.islice(left, _AHEAD * workers - len(pending)):
                    reason = options.excluded.get(item.key)
                    pending.append((i, pool.submit(_load, plan, item, reason)))
                if not pending:
                    return
                i, future = pending.popleft()
                yield i, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _load(
    plan: Plan, item: Item, reason: str | None
) -> tuple[Picture, dict[str, Any], float] | Exception:
    start = time.perf_counter()
    try:
        if reason:
            raise MediaFileError(reason)
        data, fields = read_item(plan.root, item, image_column=plan.settings["image_column"])
        picture = load_picture(data, item.key, plan.geometry)
    except (ImportError, MemoryError):
        raise  # of this machine, not of the input
    except Exception as error:  # Pillow raises every kind on broken files
        check_root(plan.root)
        return error
    return picture, fields, time.perf_counter() - start

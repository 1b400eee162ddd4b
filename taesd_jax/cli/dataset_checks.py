"""The commands `taesd-jax check-dataset` and `taesd-jax decode-dataset`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from ..autoencoder import AutoencoderTiny
from ..datasets import LatentDataset, Record, read
from ..datasets.checks import check
from ..datasets.plan import load_plan
from ..errors import MediaFileError
from ..io.files import signature
from ..io.images import write_image
from ..io.latent_fields import check_model
from ..weights.files import digest_tree
from .options import model_on_device
from .outputs import check_outputs
from .terminal import say


def run_check_dataset(args: argparse.Namespace) -> int:
    """Check digests and counts, and that every input is exactly once in a data set."""
    folder, problems = Path(args.dataset), 0
    dataset = read(folder)
    plan = load_plan(folder)
    keys = [[item.key for item in plan.items(i)] for i in range(plan.shards)]
    for problem in check(folder, keys):
        say(problem)
        problems += 1
    if problems:
        say(f"{folder}: {problems} problems")
        return 1
    manifest = dataset.manifest
    say(
        f"{folder}: {len(manifest.shards)} shards, {manifest.records} records, "
        f"{len(manifest.failures)} failures: whole"
    )
    return 0


def run_decode_dataset(args: argparse.Namespace) -> int:
    """Decode the latents of a data set into PNG files, named after its keys."""
    dataset = read(args.dataset)
    metadata = dataset.manifest.metadata
    args.model = args.model or metadata.get("model")
    if not args.model:
        raise MediaFileError(f"{args.dataset} does not name its model; pass --model")
    count = 0
    with model_on_device(args, "decoder") as vae:
        digest = digest_tree(vae.params["encoder"]) if "encoder" in vae.params else None
        path = dataset.folder / dataset.manifest.shards[0].shard
        check_model(metadata, path, config=vae.config, encoder_sha256=digest)
        for batch in _batches(dataset, args.batch_size, args.count):
            paths = [_image_path(Path(args.output), record) for record in batch]
            check_outputs(args, paths)
            for path, record, image in zip(paths, batch, _decode(vae, batch, args), strict=True):
                h, w = record.image_size
                write_image(path, image[:h, :w], software=signature(args.command))
            count += len(batch)
    say(f"{args.output}: {count} images")
    return 0


def _batches(dataset: LatentDataset, size: int, count: int | None) -> Iterator[list[Record]]:
    """Yield records of one shape together, in the order in which batches fill up."""
    pending: dict[tuple[int, ...], list[Record]] = {}
    for i in range(min(len(dataset), count or len(dataset))):
        record = dataset[i]
        batch = pending.setdefault(record.latent.shape, [])
        batch.append(record)
        if len(batch) == size:
            yield pending.pop(record.latent.shape)
    yield from pending.values()


def _decode(vae: AutoencoderTiny, batch: list[Record], args: argparse.Namespace) -> np.ndarray:
    """Decode a batch, filled up with copies of its last: every shape compiles once."""
    latents = [record.latent for record in batch]
    latents += latents[-1:] * (args.batch_size - len(batch))
    return np.asarray(vae.decode(np.stack(latents)).sample)[: len(batch)]


def _image_path(folder: Path, record: Record) -> Path:
    """Return the path of a decoded image, the whole key with .png; never outside the folder."""
    parts = [part for part in PurePosixPath(record.key).parts if part not in ("/", "..")]
    return folder.joinpath(*parts[:-1], f"{parts[-1]}{'.flipped' if record.flipped else ''}.png")

"""The command `taesd-jax encode-dataset`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from ..autoencoder import AutoencoderTiny
from ..datasets.encoding import Options, place_encoder
from ..datasets.local import run_local
from ..datasets.locations import find_files
from ..datasets.manifest import FAILURES_FILE, read_report
from ..datasets.on_ray import run_on_ray
from ..datasets.pictures import Geometry, buckets, square
from ..datasets.plan import Plan, check_settings, load_plan, make_plan, make_settings
from ..datasets.shards import finish, remove_temporaries
from ..datasets.sources import list_items
from ..errors import MediaFileError, UsageError
from ..io.files import locked
from ..weights.files import digest_tree
from .dataset_progress import LOG_START, ProgressReporter
from .options import model_on_device
from .terminal import say, status_line


def run_encode_dataset(args: argparse.Namespace) -> int:
    """Encode a data set of images into shards of latents."""
    folder = Path(args.target).absolute()
    if args.buckets and not args.size:
        raise UsageError("--buckets needs --size")
    source = Path(args.source)
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{folder} is inside {source}; name a folder outside of it")
    device = args.device
    if args.engine == "ray":
        # This process only plans: the actors need the devices' memory.
        jax.config.update("jax_platforms", "cpu")
        args.device = None
    with model_on_device(args, "encoder") as vae:
        plan = _make_plan(args, vae, folder)
        first, step = args.part or (0, 1)
        reports = {i: read_report(plan.shard_path(i)) for i in range(first, plan.shards, step)}
        missing = [index for index, report in reports.items() if not report]
        shapes = ", ".join(f"{w}x{h}" for h, w in plan.geometry.sizes) or "sizes as they are"
        say(
            f"{plan.inputs} inputs in {plan.shards} shards ({shapes}); to do: "
            f"{sum(map(plan.count, missing))} inputs in {len(missing)} shards"
        )
        if args.dry_run:
            return 0
        if args.max_failures is not None:
            args.max_failures -= sum(len(report.failures) for report in reports.values() if report)
            if missing and args.max_failures < 0:
                raise MediaFileError(f"more inputs failed than --max-failures: see {folder}")
        args.device = device
        _make_shards(args, plan, vae, missing)
    return _report(plan)


def _make_shards(
    args: argparse.Namespace, plan: Plan, vae: AutoencoderTiny, missing: list[int]
) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(plan, shared=args.part is not None))
        if args.log:
            _check_log(args.log)
        log = stack.enter_context(open(args.log, "a")) if args.log else None
        show = stack.enter_context(status_line(args))
        inputs = sum(map(plan.count, missing))
        reporter = ProgressReporter(inputs, workers=args.workers, show=show, log=log)
        options = Options(args.workers, args.max_failures)
        if args.engine == "ray":
            where = {"address": args.address, "device": args.device}
            where["batch_size"] = args.batch_size
            run_on_ray(plan, missing, vae, options, reporter, **where)
        else:
            encoder = place_encoder(plan, vae, batch_size=args.batch_size)
            run_local(plan, missing, encoder, options, reporter)


def _check_log(path: str) -> None:
    """Raise MediaFileError for a file that this command did not begin."""
    with open(path, "a+b") as file:
        file.seek(0)
        if file.read(len(LOG_START)) not in (b"", LOG_START.encode()):
            raise MediaFileError(f"{path} is no log of encode-dataset; name another file")


def _make_plan(args: argparse.Namespace, vae: AutoencoderTiny, folder: Path) -> Plan:
    """Return the plan of the folder, which is made and frozen first if there is none."""
    multiple = vae.config.spatial_factor
    try:
        if args.buckets:
            geometry = buckets(args.size, multiple=multiple)
        else:
            geometry = square(args.size, multiple=multiple) if args.size else Geometry((), multiple)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from error
    names = ("dtype", "flip", "format", "image_column", "shard_images", "store")
    settings = make_settings(
        vae.config,
        geometry,
        encoder_sha256=digest_tree(vae.params["encoder"]),
        **{name: getattr(args, name) for name in names},
    )
    if args.as_planned:
        plan = load_plan(folder)
        check_settings(plan, settings)
        return plan._replace(root=find_files(args.source)[0])  # it may have moved as a whole
    root, items = list_items(args.source, image_column=args.image_column)
    return make_plan(folder, root, items, settings, model=vae.config.name_or_path, dry=args.dry_run)


@contextlib.contextmanager
def _locked(plan: Plan, *, shared: bool) -> Iterator[None]:
    """Lock the folder against a run that would do the same work; parts share it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(plan.folder, blocking=False, shared=shared))
        except BlockingIOError as error:
            raise MediaFileError(
                f"{plan.folder}: another encode-dataset is at work; wait for it, or stop it and "
                f"start all of them with --part"
            ) from error
        if not shared:
            remove_temporaries(plan)
        yield


def _report(plan: Plan) -> int:
    """Finish the data set if all its shards are; return the exit status."""
    manifest = finish(plan)
    if not manifest:
        say(f"{plan.folder}: other parts are not finished; the last one writes the manifest")
        return 0
    failures = manifest.failures
    note = f", {len(failures)} inputs failed: see {plan.folder / FAILURES_FILE}" if failures else ""
    say(f"{plan.folder}: {manifest.records} records in {plan.shards} shards{note}")
    if not manifest.records:
        raise MediaFileError(
            f"no input could be read, such as {failures[0].key}: {failures[0].reason}"
        )
    return 0

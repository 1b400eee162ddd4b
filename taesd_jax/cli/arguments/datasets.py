"""Arguments of `taesd-jax encode-dataset`."""

from __future__ import annotations

import argparse

from .common import DTYPES, MODEL_HELP, file_name, natural_number, positive_integer

# Those of `datasets.formats` and `datasets.records`, which import JAX.
FORMATS = ("parquet", "array_record", "webdataset")
STORES = ("float16", "bfloat16", "float32", "uint8")
_DEFAULT = "(default: %(default)s)"


def add_encode_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax encode-dataset`."""
    add = parser.add_argument
    text = "folder, file or glob pattern, also remote (s3://...): of images, or of webdataset "
    add("source", metavar="SRC", help=f"{text}tars, parquet or arrow tables, array_records")
    add("target", metavar="DST", type=file_name, help="folder; the same command resumes it")
    add("--model", default="small", help=f"{MODEL_HELP} {_DEFAULT}")
    add("--image-column", metavar="NAME", help="of tables (default: the only one of bytes)")
    group = parser.add_argument_group("images")
    size = group.add_mutually_exclusive_group(required=True)
    text = "shorter side in pixels; images are resized and cropped at the centre"
    size.add_argument("--size", type=positive_integer, metavar="N", help=text)
    text = "keep sizes; edges are repeated up to a multiple of the model's factor"
    size.add_argument("--keep-size", action="store_true", help=text)
    text = "crop to the nearest of several shapes of about --size x --size pixels"
    group.add_argument("--buckets", action="store_true", help=text)
    group.add_argument("--flip", action="store_true", help="store mirrored images too")
    add = parser.add_argument_group("latents").add_argument
    add("--format", choices=FORMATS, default="parquet", help=f"of shards {_DEFAULT}")
    add("--store", choices=STORES, default="float16", help=f"dtype of latents {_DEFAULT}")
    text = f"inputs of a shard {_DEFAULT}"
    add("--shard-images", type=positive_integer, default=4096, metavar="N", help=text)
    add("--dtype", choices=DTYPES, default="float32", help=f"of the computation {_DEFAULT}")
    add = parser.add_argument_group("work").add_argument
    text = "this process, or the actors of a Ray cluster that shares SRC and DST"
    add("--engine", choices=("local", "ray"), default="local", help=f"{text} {_DEFAULT}")
    text = "of the cluster, or auto (default: a cluster on this machine)"
    add("--address", metavar="HOST:PORT", help=text)
    add("--device", help="cpu, gpu or tpu: all devices of this kind (default: JAX's)")
    text = "images at a time (default: by their size; 1 a device with --keep-size)"
    add("--batch-size", type=positive_integer, metavar="N", help=text)
    text = "threads that decode (default: one a CPU)"
    add("--workers", type=positive_integer, metavar="N", help=text)
    add("--part", type=_part, metavar="I/N", help="make only shards I, I + N, ...; from 0/N on")
    text = "end once more inputs than this have failed (default: never)"
    add("--max-failures", type=natural_number, metavar="N", help=text)
    text = "resume with the inputs that were planned, whatever is in SRC now"
    add("--as-planned", action="store_true", help=text)
    add("--dry-run", action="store_true", help="say what would be done; write nothing")
    add("--log", type=file_name, metavar="FILE", help="append the progress as JSON lines")


def _part(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with I below N, such as 0/8, got {text!r}")
    return int(first), int(count)

"""Arguments of `taesd-jax bench`."""

from __future__ import annotations

import argparse

from ...config import VARIANTS
from ...video.config import VIDEO_VARIANTS
from .common import add_overwrite, file_name, positive_integer

PEERS = ("eager", "channels_last", "cuda_graph", "compile", "onnxruntime", "openvino")
VIDEO_PEERS = ("eager", "steps", "compile")


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `taesd-jax bench`."""
    add, components, default = parser.add_argument, ["decoder", "encoder"], "default: %(default)s"
    add("--variants", nargs="+", choices=tuple(VARIANTS), default=["taesd"], help=default)
    add("--components", nargs="+", choices=components, default=components, help=default)
    add("--sizes", nargs="+", type=positive_integer, default=[512], help="sides of the images")
    add("--batch", nargs="+", type=positive_integer, default=[1], help="images at a time")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    add("--rounds", type=positive_integer, default=5, help=default)
    add("--threads", type=positive_integer, help="CPU threads of each (default: all available)")
    names = ("all", "none", *PEERS, "steps")
    add("--peers", nargs="+", choices=names, default=["all"])
    text = "measure video models in place of --variants (taew2_1 where none is named)"
    add("--video", nargs="*", choices=tuple(VIDEO_VARIANTS), metavar="VARIANT", help=text)
    add("--frames", nargs="+", type=positive_integer, default=[16], help="frames of the videos")
    add("--strategies", action="store_true", help="compare our strategies in place of peers")
    add("--peaks", action="store_true", help="peak memory, each in a process of its own")
    add("--overhead", action="store_true", help="overhead of a call")
    text = "encode-dataset with this model on made JPEG files, beside its encoder alone"
    add("--dataset", metavar="MODEL", help=text)
    text = "photographs that the files are made of (default: one that comes with this package)"
    add("--images", nargs="+", metavar="IMAGE", help=f"with --dataset, {text}")
    text = "with --dataset, number of files (default: %(default)s)"
    add("--count", type=positive_integer, default=64, help=text)
    add("--json", type=file_name, metavar="FILE", help="also write the figures as JSON")
    text = "draw the medians (needs matplotlib)"
    add("--plot", type=file_name, metavar="FILE", help=text)
    add_overwrite(parser)

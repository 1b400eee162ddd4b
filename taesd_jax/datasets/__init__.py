"""Data sets of latents; needs the extra `datasets`: pip install 'taesd-jax[datasets]'."""

from .encoding import encode_shard
from .plan import load_plan
from .reader import LatentDataset, read
from .records import Record
from .shards import finish

__all__ = ["LatentDataset", "Record", "encode_shard", "finish", "load_plan", "read"]

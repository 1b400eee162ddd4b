"""The local engine: one shard after the other in this process, each written beside the next."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from .batches import Encoder
from .encoding import Options, Reporter, encode_items
from .manifest import ShardReport
from .plan import Plan
from .shards import write_shard


def run_local(
    plan: Plan, indices: Iterable[int], encoder: Encoder, options: Options, reporter: Reporter
) -> None:
    """Make shards.

    Args:
        plan: What they belong to.
        indices: Numbers of the shards.
        encoder: What encodes.
        options: How; `max_failures` counts those of all these shards.
        reporter: Is told of the progress.

    Raises:
        MediaFileError: Too many inputs failed.
        OSError: A shard cannot be written.
    """
    left = options.max_failures
    with ThreadPoolExecutor(1) as writer:
        writing: Future[ShardReport] | None = None
        for index in indices:
            observe = functools.partial(reporter.observe, index)
            options = options._replace(max_failures=left, observe=observe)
            encoded = encode_items(plan, plan.items(index), encoder, options)
            left = None if left is None else left - len(encoded.failures)
            if writing:
                reporter.finish(writing.result())
            writing = writer.submit(write_shard, plan, index, encoded)
        if writing:
            reporter.finish(writing.result())

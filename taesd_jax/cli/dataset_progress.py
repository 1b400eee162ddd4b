"""The progress of `taesd-jax encode-dataset`: a line on a terminal, and a log of JSON lines."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any, TextIO

from ..datasets.encoding import Progress, count_cpus
from ..datasets.manifest import ShardReport
from .terminal import Show, say

# How each line of a log begins.
LOG_START = '{"time": '
# Seconds between lines, on a terminal and in a log.
_EVERY = {True: 0.5, False: 10.0}


class ProgressReporter:
    """Tells how far the work is.

    Args:
        inputs: Number of inputs that are to be done.
        workers: Number of decoders; None for one a CPU.
        show: Shows a line on the terminal.
        log: Gets an object a line.
    """

    def __init__(self, inputs: int, *, workers: int | None, show: Show, log: TextIO | None):
        self._inputs, self._workers = inputs, workers or count_cpus()
        self._show, self._log = show, log
        self._shards: dict[int, Progress] = {}
        self._start = time.monotonic()
        now = self._start, Progress()
        self._last = {True: now, False: now}

    def observe(self, index: int, progress: Progress) -> None:
        """Take the progress of a shard, and tell of it now and then."""
        self._shards[index] = progress
        for terminal in (True, False):
            if time.monotonic() - self._last[terminal][0] >= _EVERY[terminal]:
                self._tell(terminal)

    def finish(self, report: ShardReport) -> None:
        """Tell of a shard that was written."""
        counts = f"{report.records} records, {len(report.failures)} failures"
        self._show("")
        say(f"{report.shard}: {counts}  ({report.seconds:.1f} s)")
        self._write({"event": "shard"} | report._asdict() | {"failures": len(report.failures)})

    def _tell(self, terminal: bool) -> None:
        now, total = time.monotonic(), Progress(*map(sum, zip(*self._shards.values(), strict=True)))
        before, last = self._last[terminal]
        self._last[terminal] = now, total
        rates = [(a - b) / (now - before) for a, b in zip(total, last, strict=True)]
        inputs, _, decoding, device = rates
        speed = total.inputs / (now - self._start)
        left = round((self._inputs - total.inputs) / speed) if speed else None
        decoders = decoding / self._workers
        if not terminal:
            self._write(
                {"event": "progress", "inputs": total.inputs, "of": self._inputs}
                | {"failures": total.failures, "inputs_per_second": round(inputs, 3)}
                | {"device": round(device, 3), "decoders": round(decoders, 3), "seconds_left": left}
            )
            return
        line = (
            f"{total.inputs}/{self._inputs} images, {inputs:.1f}/s, device {device:.0%}, decoders "
            f"{decoders:.0%}, {total.failures} failed, {timedelta(seconds=left or 0)} left"
        )
        self._show(line)

    def _write(self, event: dict[str, Any]) -> None:
        if self._log:
            print(json.dumps({"time": round(time.time(), 3)} | event), file=self._log, flush=True)

"""The sound of a media file, copied beside frames as they are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import MediaFileError
from .files import reading

ADVICE = "a .mkv file takes sound of any kind"


class Sound:
    """The packets of a sound, in order of time.

    Args:
        stream: Where they come from.
        target: The PyAV container that they are copied into; nothing is written there yet.
    """

    def __init__(self, stream: Any, target: Any):
        self._target, self._copy = target, target.add_stream_from_template(stream)
        # Containers such as MPEG-TS do not begin at 0; what lies before it belongs to the codec.
        self._start = max(0, stream.start_time or 0)
        self._packets = stream.container.demux(stream)
        self._next = next(self._packets, None)

    def copy(self, until: Fraction) -> None:
        """Copy what begins before a time in seconds."""
        while (packet := self._next) is not None:
            if packet.dts is None:  # the mark of the end
                self._next = None
                return
            if (packet.dts - self._start) * packet.time_base >= until:
                return
            packet.dts -= self._start
            packet.pts = packet.pts if packet.pts is None else packet.pts - self._start
            packet.stream = self._copy
            self._target.mux(packet)
            self._next = next(self._packets, None)


@contextlib.contextmanager
def open_sound(path: Path | None, target: Any) -> Iterator[Sound | None]:
    """Open the sound of a file to copy it into a container; None if it has none.

    Raises:
        MediaFileError: There is no such file, it cannot be read, or the container does not take
            such a sound.
    """
    if path is None:
        yield None
        return
    import av  # pyright: ignore[reportMissingImports]

    with contextlib.ExitStack() as stack:
        with reading(path):
            if not path.exists():
                raise FileNotFoundError(path)
            source = stack.enter_context(av.open(str(path)))
        sound = None
        if source.streams.audio:
            try:
                sound = Sound(source.streams.audio[0], target)
            except ValueError as error:
                raise MediaFileError(f"{path}: its sound: {error}; {ADVICE}") from error
        yield sound

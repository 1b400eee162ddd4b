"""Consumers of previews: numbered files, an animation, a notebook, a terminal."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaFileError
from ..io.files import write_files


class SaveFrames:
    """Save each preview as a numbered PNG, `folder/step_00012.png`; a video as a strip of frames.

    Further previews of the same step, from vmap or several devices, get a second number.

    Args:
        folder: Folder of the files; created if missing.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._saved: Counter[int] = Counter()

    def __call__(self, step: int, pixels: np.ndarray) -> None:
        """Save a preview."""
        number = f"_{self._saved[step]}" if self._saved[step] else ""
        self._saved[step] += 1
        write_files({self.folder / f"step_{step:05}{number}.png": _png(side_by_side(pixels))})


class WriteAnimation:
    """Write all previews as one animation when the stream is closed; videos play one by one.

    Args:
        path: A .gif or .webp file.
        seconds: Duration of each preview, of videos of each frame; the last lasts five times as
            long.

    Raises:
        MediaFileError: The suffix is not .gif or .webp.
        ValueError: The seconds are not positive.
    """

    def __init__(self, path: str | os.PathLike[str], *, seconds: float = 0.1):
        self.path, self.seconds = Path(path), seconds
        if self.path.suffix.lower() not in (".gif", ".webp"):
            raise MediaFileError(f"{path}: an animation must be .gif or .webp")
        if not seconds > 0:
            raise ValueError(f"seconds must be positive, got {seconds}")
        self._frames: list[tuple[int, np.ndarray]] = []

    def __call__(self, step: int, pixels: np.ndarray) -> None:
        """Add a preview."""
        moments = np.moveaxis(pixels, 1, 0) if pixels.ndim == 5 else [pixels]
        self._frames += [(step, side_by_side(moment)) for moment in moments]

    def close(self) -> None:
        """Write the animation, in the order of steps."""
        from PIL import Image

        if not self._frames:
            return
        in_order = sorted(self._frames, key=lambda frame: frame[0])
        frames = [Image.fromarray(pixels) for _, pixels in in_order]
        milliseconds = round(1000 * self.seconds)
        durations = [milliseconds] * (len(frames) - 1) + [5 * milliseconds]
        buffer = io.BytesIO()
        kind = "GIF" if self.path.suffix.lower() == ".gif" else "WEBP"
        frames[0].save(
            buffer, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0
        )
        write_files({self.path: buffer.getvalue()})


class ShowInNotebook:
    """Show the latest preview in the output of the notebook cell that creates this object.

    Raises:
        ModuleNotFoundError: IPython is not installed.
    """

    def __init__(self):
        try:
            from IPython import display  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "ShowInNotebook needs IPython: pip install 'taesd-jax[notebooks]'"
            ) from error
        self._image = display.Image
        self._handle = display.DisplayHandle()
        self._handle.display(display.Markdown("*waiting*"))

    def __call__(self, step: int, pixels: np.ndarray) -> None:
        """Replace the preview."""
        self._handle.update(self._image(_png(side_by_side(pixels)), alt=f"step {step}"))


class ShowInTerminal:
    """Show the latest preview in the terminal, two pixels per character.

    Args:
        width: Columns of the terminal to use.
        console: A `rich.console.Console`; standard output by default.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """

    def __init__(self, *, width: int = 64, console: Any = None):
        try:
            from rich.live import Live
            from rich.text import Text
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "ShowInTerminal needs rich: pip install 'taesd-jax[terminal]'"
            ) from error
        self.width, self._text = width, Text
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def __call__(self, step: int, pixels: np.ndarray) -> None:
        """Replace the preview."""
        from PIL import Image

        image = Image.fromarray(side_by_side(pixels))
        height = max(1, round(image.height * self.width / image.width / 2))
        small = np.asarray(image.resize((self.width, 2 * height)))
        text = self._text(f"step {step}\n")
        for upper, lower in zip(small[::2], small[1::2], strict=True):
            for (r, g, b), (r2, g2, b2) in zip(upper.tolist(), lower.tolist(), strict=True):
                text.append("▀", f"rgb({r},{g},{b}) on rgb({r2},{g2},{b2})")
            text.append("\n")
        self._live.update(text, refresh=True)

    def close(self) -> None:
        """Stop updating; the last preview stays."""
        self._live.stop()


def side_by_side(pixels: np.ndarray) -> np.ndarray:
    """Concatenate a batch of images (n, h, w, 3) into one row (h, n * w, 3).

    Of videos (n, t, h, w, 3) each is a row of its frames, one below the other.

    >>> side_by_side(np.zeros((2, 8, 16, 3), np.uint8)).shape
    (8, 32, 3)
    >>> side_by_side(np.zeros((2, 5, 8, 16, 3), np.uint8)).shape
    (16, 80, 3)
    """
    if pixels.ndim == 5:
        return np.concatenate([side_by_side(frames) for frames in pixels], axis=0)
    return np.concatenate(list(pixels), axis=1)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

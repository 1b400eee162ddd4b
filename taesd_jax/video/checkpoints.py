"""Checkpoints of video models: published names, read strictly and written back as they were."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError
from ..io.files import write_files
from ..model.layers import Params
from ..weights import files
from ..weights.assembly import Part
from ..weights.files import DTYPES
from ..weights.names import Shape
from ..weights.sources import PICKLES
from .config import VIDEO_VARIANTS, VideoConfig
from .tensors import check_finite, check_shapes, difference, from_tensors, to_tensors

# The config in the metadata of files that this package writes.
CONFIG = "video_config"


class VideoCheckpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        params: {"encoder": ..., "decoder": ...}, numpy arrays in the stored dtype; either component
            may be absent.
        config: Its architecture.
    """

    params: Params
    config: VideoConfig


def load_video(path: str | os.PathLike[str], *, variant: str | None = None) -> VideoCheckpoint:
    """Load a safetensors file of published names as numpy arrays, in its stored dtype.

    Args:
        path: The file.
        variant: A name of `VIDEO_VARIANTS`; by default what the file itself, its name or the shapes
            of its tensors say.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It is not a model of this family, lists every tensor that is missing,
            unexpected or mis-shaped; or it may be one of several, and `variant` must tell.
        ValueError: There is no such variant.
    """
    path = Path(path).expanduser()
    if path.suffix in PICKLES and path.is_file():
        raise CheckpointError(
            f"{path} is a PyTorch pickle: with torch installed, load it by "
            f"taesd_jax.convert.load_video_pth({str(path)!r})"
        )
    header = files.read_header(path)
    with _prefixed(path):
        stored = None if variant is not None else _stored_config(header.metadata)
    refused = {name: kind for name, kind in header.dtypes.items() if kind not in DTYPES}
    read = functools.partial(files.read_tensors, path, header)
    part = Part(str(path), header.shapes, refused, read)
    return assemble_video(part, variant=variant, config=stored)


def assemble_video(
    part: Part, *, variant: str | None = None, config: VideoConfig | None = None
) -> VideoCheckpoint:
    """Recognise the model of a file, and read it.

    Args:
        part: The tensors by their published names, read last: those of a file that is no model may
            be larger than memory.
        variant: As in `load_video`.
        config: What the file itself says, if anything.

    Raises:
        CheckpointError: As in `load_video`.
        ValueError: There is no such variant.
    """
    with _prefixed(part.origin):
        if part.refused:
            kinds = "; ".join(f"{name} is {kind}" for name, kind in part.refused.items())
            raise CheckpointError(f"expected tensors of {', '.join(DTYPES)}; {kinds}")
        if config is None:
            config = recognise(part.shapes, variant=variant, name=Path(part.origin).stem)
        check_shapes(part.shapes, config)
    tensors = part.read(part.shapes)
    with _prefixed(part.origin):
        params = from_tensors(tensors, config=config)
    return VideoCheckpoint(params, config.replace(name_or_path=part.origin))


@contextmanager
def _prefixed(origin: str | Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from error


def save_video(path: str | os.PathLike[str], params: Params, config: VideoConfig) -> Path:
    """Write a safetensors file of published names, atomically.

    Args:
        path: The file.
        params: {"encoder": ..., "decoder": ...}; either may be absent.
        config: Architecture; the file carries it as metadata.

    Raises:
        CheckpointError: The params do not fit config, are not finite, or are of a dtype that files
            cannot hold.
    """
    path = Path(path)
    tensors = to_tensors(params)
    check_shapes({name: tensor.shape for name, tensor in tensors.items()}, config)
    if unfit := {t.dtype.name for t in tensors.values()} - set(DTYPES.values()):
        raise CheckpointError(
            f"params must be of {', '.join(DTYPES.values())}, got {', '.join(sorted(unfit))}"
        )
    check_finite(tensors)
    metadata = {"format": "pt", CONFIG: json.dumps(config.to_dict())}
    write_files({path: files.to_bytes(tensors, metadata)})
    return path


def recognise(
    shapes: Mapping[str, Shape], *, variant: str | None = None, name: str = ""
) -> VideoConfig:
    """Return the config of tensors of published names.

    Args:
        shapes: Published name -> PyTorch shape.
        variant: A name of `VIDEO_VARIANTS`, or None.
        name: Name of the file, which tells the variant where shapes leave several.

    Raises:
        CheckpointError: They fit no variant, or several that compute differently.
        ValueError: There is no such variant.
    """
    if variant is not None:
        return select_variant(variant)
    fitting = {name: row for name, row in VIDEO_VARIANTS.items() if not difference(shapes, row)}
    for word in _words(name):
        if word in fitting:
            return fitting[word]
    if len(set(fitting.values())) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise CheckpointError(
            f"the tensors fit {' and '.join(fitting)}, which compute differently: say which with "
            f"variant (--variant)"
        )
    nearest = min(VIDEO_VARIANTS, key=lambda row: len(difference(shapes, VIDEO_VARIANTS[row])))
    lines = difference(shapes, VIDEO_VARIANTS[nearest])
    raise CheckpointError(
        f"the tensors fit no video model of this family; the nearest is {nearest}:\n"
        + "\n".join(lines)
    )


def select_variant(name: str) -> VideoConfig:
    """Return a row of `VIDEO_VARIANTS`, or raise ValueError with their names."""
    if name not in VIDEO_VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VIDEO_VARIANTS)}, got {name!r}")
    return VIDEO_VARIANTS[name]


def _stored_config(metadata: Mapping[str, str]) -> VideoConfig | None:
    if CONFIG not in metadata:
        return None
    fields = files.parse_json(metadata[CONFIG], "its config")
    try:
        return VideoConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"its config: {error}") from error


def _words(name: str) -> list[str]:
    """Return what of a file's name may be a variant's: its leading parts, the longest first."""
    parts = re.split(r"[^a-z0-9]+", name.lower())
    return ["_".join(parts[:n]) for n in range(len(parts), 0, -1)]

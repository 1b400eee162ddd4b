"""The commands `taesd-jax decode-video` and `encode-video`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import MediaFileError, UsageError
from ..io.arrays import open_array
from ..io.files import reading, signature
from ..io.images import from_uint8, pad_image
from ..io.latent_content import check_archive
from ..io.latents import check_finite
from ..io.videos import check_video_path, read_video, replacing, write_video
from ..video import AutoencoderTinyVideo, num_frames
from ..weights.sources import PICKLES
from .options import convert_package
from .outputs import check_not_inputs, check_outputs
from .terminal import say, status_line


def run_decode_video(args: argparse.Namespace) -> int:
    """Decode latents into a video, in memory that does not grow with its length."""
    source, target = Path(args.latents), Path(args.output)
    check_not_inputs(args, [target])
    check_video_path(target, has_audio=args.audio is not None)
    if target.suffix:
        check_outputs(args, [target])
    vae = _load(args)
    latents = _read(source, args.data_format, args.key)
    total = num_frames(latents.shape[1], config=vae.config)
    frames = _progress(args, _frames(vae, latents), total, source)
    software = signature("decode-video")
    count = write_video(target, frames, fps=args.fps, audio=args.audio, software=software)
    height, width = (vae.config.spatial_factor * side for side in latents.shape[2:4])
    say(f"{target}: {count} frames of {width}x{height}")
    return 0


def run_encode_video(args: argparse.Namespace) -> int:
    """Encode a video into latents; of its frames only those of one step are in memory."""
    source, target = Path(args.video), Path(args.output)
    if target.suffix.lower() != ".npy":
        raise UsageError(f"-o {target}: latents are written as .npy")
    check_outputs(args, [target])
    vae = _load(args)
    multiple = vae.config.spatial_factor
    frames = (from_uint8(pixels) for pixels in _progress(args, _of_one_size(source), None, source))
    padded = (pad_image(frame, multiple)[None] for frame in frames)
    # .npy cannot hold bfloat16.
    latents = (np.asarray(part[0], np.float32) for part in vae.iter_encode(padded))
    shape = _write(target, latents)
    say(f"{target}: latents {'x'.join(map(str, shape))}")
    return 0


def _load(args: argparse.Namespace) -> AutoencoderTinyVideo:
    options = {"dtype": args.dtype, "chunk": args.chunk}
    if Path(args.model).suffix not in PICKLES:
        return AutoencoderTinyVideo.from_pretrained(args.model, args.variant, **options)
    params, config = convert_package().load_video_pth(args.model, variant=args.variant)
    return AutoencoderTinyVideo(jax.tree.map(jnp.asarray, params), config, **options)


def _read(path: Path, data_format: str, key: str | None) -> np.ndarray:
    """Return latents (1, t, h, w, z), mapped from the file if it is .npy."""
    if path.suffix.lower() == ".npz":
        check_archive(path)
        with reading(path), np.load(path, allow_pickle=False) as archive:
            names = archive.files if key is None else [n for n in archive.files if n == key]
            if len(names) != 1:
                held = ", ".join(archive.files)
                raise MediaFileError(f"{path}: expected one array, got {held}; name it with --key")
            latents = archive[names[0]]
    else:
        latents = open_array(path)
    shape = latents.shape
    if latents.ndim == 5 and shape[0] == 1:
        latents = latents[0]
    if latents.ndim != 4:
        axes = ", ".join(data_format.lower().replace("c", "z"))
        raise MediaFileError(
            f"{path}: --data-format {data_format} is ({axes}) or (1, {axes}), got shape {shape}"
        )
    if data_format == "CTHW":
        latents = np.moveaxis(latents, 0, -1)
    for i, latent in enumerate(latents):
        try:
            check_finite(latent)
        except ValueError as error:
            raise MediaFileError(f"{path}: latent {i}: {error}") from error
    return latents[None]


def _of_one_size(source: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video, or raise MediaFileError where the size changes."""
    size = None
    for i, pixels in enumerate(read_video(source)):
        if size not in (None, pixels.shape[:2]):
            h, w = size
            raise MediaFileError(
                f"{source}: expected frames of one size, got {pixels.shape[1]}x{pixels.shape[0]} "
                f"for frame {i} after {w}x{h}"
            )
        size = pixels.shape[:2]
        yield pixels


def _write(path: Path, parts: Iterator[np.ndarray]) -> tuple[int, ...]:
    """Write latents (k, h, w, z) to a .npy file as they come, and return the shape of all."""
    shape: tuple[int, ...] = ()
    with replacing(path) as temporary, temporary.open("xb") as file:
        for part in parts:
            check_finite(part)
            if not shape:
                shape = (0, *part.shape[1:])
                _write_header(file, shape)
            file.write(part.tobytes())
            shape = (shape[0] + len(part), *shape[1:])
        # NumPy leaves room in a header for the first axis to grow.
        file.seek(0)
        _write_header(file, shape)
    return shape


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _frames(vae: AutoencoderTinyVideo, latents: np.ndarray) -> Iterator[np.ndarray]:
    for frames in vae.iter_decode(latents, out_dtype="uint8"):
        yield from np.asarray(frames[0])


def _progress(
    args: argparse.Namespace, frames: Iterator[Any], total: int | None, source: Path
) -> Iterator[Any]:
    """Yield frames, and count them on a terminal."""
    with status_line(args) as show:
        show(f"{source}: compiling for the first frames")
        for i, frame in enumerate(frames, 1):
            yield frame
            show(f"{source}: frame {i}{f' of {total}' if total else ''}")

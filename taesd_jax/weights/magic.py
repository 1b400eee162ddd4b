"""Names files that are no checkpoint of a readable kind, by their first bytes."""

from __future__ import annotations

import codecs
import zipfile
from pathlib import Path

SAFETENSORS = "a safetensors file: name it .safetensors"
TORCH = "a PyTorch file: name it .pth and, with torch installed, run `taesd-jax convert` on it"
_AS_PUBLISHED = "take the original's, diffusers' or ComfyUI's weights of the same model"
_AGAIN = "download the file itself"

# First bytes -> what the file is, and what to do.
_KINDS = (
    (b"GGUF", f"a GGUF file: {_AS_PUBLISHED}"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"\x89HDF", f"an HDF5 file: {_AS_PUBLISHED}"),
    (b"\x93NUMPY", "a NumPy array: latents are read by `taesd-jax decode`"),
    (b"\x89PNG", f"a PNG image: {_AGAIN}"),
    (b"\xff\xd8\xff", f"a JPEG image: {_AGAIN}"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    # Pickle protocol 2, which torch.save wrote before 1.6.
    (b"\x80\x02", TORCH),
)
# ONNX has no magic bytes. These are the protobuf fields that exporters write first: the version of
# the format, then the length of the producer's name or of the graph.
_ONNX_FIRST, _ONNX_SECOND = b"\x08", (b"\x12", b"\x3a", b"\x42")


def describe_file(path: Path, *, expected: str) -> str:
    """Return what a file is and what to do, or "" if that is unknown or as expected.

    Args:
        path: A file that could not be read.
        expected: `SAFETENSORS` or `TORCH`.
    """
    kind = _describe(path)
    return "" if kind == expected else kind


def _describe(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    for magic, kind in _KINDS:
        if start.startswith(magic):
            return kind
    if start[:1] == _ONNX_FIRST and start[1:2] < b"\x20" and start[2:3] in _ONNX_SECOND:
        return f"an ONNX model: {_AS_PUBLISHED}"
    if start.startswith(b"PK\x03\x04"):
        return TORCH if _is_torch_archive(path) else "a zip archive: unpack it"
    if start[8:10] == b'{"' and start[5:8] == b"\0\0\0":  # below 1 TB of header
        return SAFETENSORS
    return _describe_text(start)


def _is_torch_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises errors of every kind on damaged archives
        return False


def _describe_text(start: bytes) -> str:
    """Describe HTML, JSON and other text, such as a server's answer saved as the file."""
    try:
        # The last character may be cut.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start).strip()
    except UnicodeDecodeError:
        return ""
    if not text or not "".join(text.split()).isprintable():
        return ""
    if text.lower().startswith(("<!doctype", "<html")):
        return f"an HTML page: {_AGAIN}, not its page"
    if text.startswith("{"):
        return "a JSON file: name the weights; an index of shards is named *.safetensors.index.json"
    first = text.split("\n")[0][:60]
    return f"text that begins {first!r}: {_AGAIN}"

"""One encoded picture, and the dtypes that its latent is stored in."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# bfloat16 is not a dtype of NumPy's own.
_DTYPES = {"float16": np.float16, "bfloat16": jnp.bfloat16, "float32": np.float32}
STORES = (*_DTYPES, "uint8")
_STEPS = np.float32(255)
_BYTES = "base64"


class Record(NamedTuple):
    """One encoded picture.

    Attributes:
        key: Path or name within the source, with "/" as separator. With `flipped`, unique in the
            data set. Valid Unicode.
        latent: (h, w, z), in model space.
        image_size: Height and width in pixels of the picture that the latent shows, before padding.
        crop: Top, left, height and width of what was encoded, in the pixels of the source picture
            after its EXIF rotation.
        flipped: Whether the picture was mirrored, left to right.
        fields: Captions, labels and other columns that travel along: str, int, float, bool, bytes,
            None, and lists of them.
        low_high: (2, z) float32, the least and greatest value of each channel, where `latent` is
            uint8.
    """

    key: str
    latent: np.ndarray
    image_size: tuple[int, int]
    crop: tuple[int, int, int, int]
    flipped: bool
    fields: dict[str, Any]
    low_high: np.ndarray | None = None


def pack(record: Record, store: str) -> Record:
    """Return a record with its float32 latent in a stored dtype, one of `STORES`.

    uint8 divides the range of each channel of this latent into 255 steps.

    Raises:
        ValueError: The latent has values beyond the range of the dtype, NaN or infinity.
    """
    latent = record.latent
    if latent.dtype != np.float32:
        return record  # is packed
    with np.errstate(over="ignore"):
        packed = latent.astype(_DTYPES.get(store, np.float32))
    if not np.isfinite(packed).all():
        raise ValueError(f"{record.key}: the latent has values that {store} cannot hold")
    if store != "uint8":
        return record._replace(latent=packed, low_high=None)
    low, high = low_high = np.stack([latent.min((0, 1)), latent.max((0, 1))])
    span = np.where(high > low, high - low, 1)  # a channel may be constant
    packed = np.round((latent - low) / span * _STEPS).astype(np.uint8)
    return record._replace(latent=packed, low_high=low_high)


def unpack(record: Record) -> Record:
    """Return a stored record with its latent as float32."""
    latent = record.latent.astype(np.float32)
    if record.low_high is not None:
        low, high = record.low_high
        latent = low + latent * ((high - low) / _STEPS)
    return record._replace(latent=latent, low_high=None)


def from_bytes(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a copy of the little-endian values of a stored latent."""
    return np.frombuffer(data, _DTYPES.get(dtype, np.uint8)).reshape(shape).copy()


def to_json(record: Record) -> str:
    """Return all of a record but its latent."""
    values = record._asdict()
    del values["latent"]
    if record.low_high is not None:
        values["low_high"] = record.low_high.tolist()
    return dump_json(values)


def dump_json(value: Any) -> str:
    """Return JSON in which bytes are `{"base64": text}`."""
    return json.dumps(value, default=lambda x: {_BYTES: base64.b64encode(x).decode()})


def from_json(text: str | bytes, latent: np.ndarray) -> Record:
    """Return the record that `to_json` described."""

    def restore(value: Any) -> Any:
        if isinstance(value, list):
            return [restore(each) for each in value]
        return base64.b64decode(value[_BYTES]) if isinstance(value, dict) else value

    values = json.loads(text)
    values["fields"] = {name: restore(value) for name, value in values["fields"].items()}
    values |= {name: tuple(values[name]) for name in ("image_size", "crop")}
    if values["low_high"] is not None:
        values["low_high"] = np.array(values["low_high"], np.float32)
    return Record(latent=latent, **values)

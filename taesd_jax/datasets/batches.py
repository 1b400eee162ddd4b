"""Batches of pictures of one shape, on all devices of this process."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, SingleDeviceSharding

from ..autoencoder import AutoencoderTiny
from ..io.images import from_uint8
from ..strategies.placement import device_of
from ..strategies.sharding import replicate, shard_images

# Pixels of a batch on each device, and most images. An H100 has enough with 32 images of 512x512;
# a CPU's caches hold one of 256x256 at most.
_PIXELS = {"cpu": 2**16}
_PIXELS_ELSEWHERE = 2**23
_MOST_IMAGES = 256
# The device works on one batch while the next is on its way.
_IN_FLIGHT = 2
_VALUES = from_uint8(np.arange(256, dtype=np.uint8))


class Encoder(NamedTuple):
    """A model on the devices that share each batch.

    Attributes:
        vae: The model, on every device.
        sharding: Of a batch.
        devices: Number of devices.
        batch_size: Images at a time; None for a number that fits their size.
    """

    vae: AutoencoderTiny
    sharding: Any
    devices: int
    batch_size: int | None

    def batch_of(self, shape: tuple[int, ...]) -> int:
        """Return how many images (h, w, 3) are encoded at a time; the devices divide it."""
        (device, *_) = self.sharding.device_set
        pixels = _PIXELS.get(device.platform, _PIXELS_ELSEWHERE)
        fitting = min(max(pixels // (shape[0] * shape[1]), 1), _MOST_IMAGES) * self.devices
        return -(-(self.batch_size or fitting) // self.devices) * self.devices

    def encode(self, pixels: np.ndarray) -> jax.Array:
        """Start to encode (n, h, w, 3) uint8; returns latents, finished or not."""
        batch = jax.device_put(pixels, self.sharding)
        return self.vae.encode(_normalize(batch, _VALUES)).latents


def make_encoder(vae: AutoencoderTiny, *, batch_size: int | None = None) -> Encoder:
    """Place a model on all devices of this process of the kind that it is on.

    Args:
        vae: The model.
        batch_size: Images at a time, rounded up to a number that the devices divide.
    """
    devices = jax.local_devices(backend=device_of(vae.params).platform)
    if len(devices) == 1:
        sharding = whole = SingleDeviceSharding(devices[0])
    else:
        axis = (AxisType.Auto,)
        mesh = jax.make_mesh((len(devices),), ("batch",), axis_types=axis, devices=devices)
        sharding, whole = shard_images(mesh, batch="batch"), replicate(mesh)
    params = jax.device_put({"encoder": vae.params["encoder"]}, whole)
    vae = AutoencoderTiny(params, vae.config, dtype=vae.dtype, memory_budget=vae.memory_budget)
    return Encoder(vae, sharding, len(devices), batch_size)


@jax.jit
def _normalize(pixels: jax.Array, values: jax.Array) -> jax.Array:
    # Looked up, for the bits of `from_uint8`: XLA multiplies where it should divide.
    return jnp.take(values, pixels, mode="clip")


class _Running(NamedTuple):
    tags: list[Any]
    latents: Any
    start: float


class Batches:
    """Collects images of each shape until there are enough to encode, and yields their latents.

    A batch has the same images in every run: it depends on the order of `add` alone.

    Args:
        encoder: What encodes them.

    Attributes:
        device_seconds: How long the device has been at work.
    """

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._waiting: dict[tuple[int, ...], list[tuple[Any, np.ndarray]]] = {}
        self._running: collections.deque[_Running] = collections.deque()
        self._last_end = 0.0
        self._ended: float | None = None
        self.device_seconds = 0.0

    def add(self, tag: Any, pixels: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Take an image (h, w, 3) uint8; yield tags and latents (h, w, z) of finished ones."""
        self.look()
        waiting = self._waiting.setdefault(pixels.shape, [])
        waiting.append((tag, pixels))
        if len(waiting) == self._encoder.batch_of(pixels.shape):
            self._start(self._waiting.pop(pixels.shape))
            while len(self._running) > _IN_FLIGHT:
                yield from self._finish()

    def flush(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Encode what is left; batches are filled up with zeros, so that no shape is new."""
        while self._waiting:
            self._start(self._waiting.pop(next(iter(self._waiting))))
            while len(self._running) > _IN_FLIGHT:
                yield from self._finish()
        while self._running:
            yield from self._finish()

    def look(self) -> None:
        """Note when the oldest batch is finished, which is seen at the next call."""
        if self._running and self._ended is None and self._running[0].latents.is_ready():
            self._ended = time.perf_counter()

    def _start(self, waiting: list[tuple[Any, np.ndarray]]) -> None:
        shape = waiting[0][1].shape
        batch = np.zeros((self._encoder.batch_of(shape), *shape), np.uint8)
        for i, (_, pixels) in enumerate(waiting):
            batch[i] = pixels
        tags = [tag for tag, _ in waiting]
        self._running.append(_Running(tags, self._encoder.encode(batch), time.perf_counter()))

    def _finish(self) -> Iterator[tuple[Any, np.ndarray]]:
        tags, latents, start = self._running.popleft()
        values = np.asarray(latents.astype(jnp.float32))
        end = self._ended or time.perf_counter()
        self.device_seconds += max(end - max(start, self._last_end), 0)
        self._last_end, self._ended = end, None
        yield from zip(tags, values, strict=False)

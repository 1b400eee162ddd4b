"""Previews of a running sampler, from inside jit or between compiled chunks of steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from ..config import AutoencoderTinyConfig
from ..errors import warn
from ..model.functional import Params, select_component
from ..model.validation import check_count, check_latent, check_scale
from ..strategies.placement import place
from ..strategies.run import decode
from ..video import VideoConfig, decode_video
from ..video.validation import check_latents

Consumer = Callable[[int, np.ndarray], object]

# Errors kept in `PreviewStream.errors`; each holds its images in memory through its traceback.
_MAX_ERRORS = 4


class PreviewStream:
    """Show decoded images of a sampler's latents while it runs.

    Call `tap` in the loop; a separate thread calls `consumer`. If the consumer is slow, the oldest
    previews are dropped; if it raises, it is called again for the next preview. The sampler returns
    the same bits as without previews and never waits. A compiled sampler keeps the stream that it
    was traced with: trace it again for another stream.

    Args:
        consumer: Called with the step and 8-bit pixels (n, h, w, 3), of videos (n, frames, h, w,
            3). Its method `close`, if any, is called last.
        config: Architecture of the autoencoder, of images or videos.
        every: Show the steps that this divides.
        scale: 1, or the scale of thumbnails: 1/8 takes 2 % of the work. See `decode`.
        max_images: Images of each batch to show.
        max_queue: Previews that may wait for the consumer.

    Attributes:
        dropped: Number of previews that were dropped, or came after the stream was closed.
        failed: Number of previews on which the consumer raised.
        errors: The first few exceptions that it raised.

    Raises:
        TypeError: The consumer is not callable, or a count is not an integer.
        ValueError: A count is not positive, or the model has no thumbnails of that scale.

    >>> from taesd_jax import VARIANTS, init
    >>> config, seen = VARIANTS["taesd"], []
    >>> consumer = lambda step, pixels: seen.append(step)
    >>> params = init(jax.random.key(0), config=config)
    >>> with PreviewStream(consumer, config=config, every=4) as stream:
    ...     def body(step, latents):
    ...         stream.tap(params, step, latents)
    ...         return latents * 0.9
    ...     latents = jax.lax.fori_loop(0, 8, body, jnp.ones((1, 2, 2, 4)))
    >>> sorted(seen)
    [0, 4]
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        config: AutoencoderTinyConfig | VideoConfig,
        every: int = 1,
        scale: float = 1,
        max_images: int = 1,
        max_queue: int = 16,
    ):
        if not callable(consumer):
            raise TypeError(f"consumer must be callable, got {type(consumer).__name__}")
        for name, value in (("every", every), ("max_images", max_images), ("max_queue", max_queue)):
            check_count(name, value)
        if isinstance(config, VideoConfig):
            if scale != 1:
                raise ValueError(f"video models have no thumbnails: scale must be 1, got {scale}")
            self.scale = 1
        else:
            self.scale = check_scale(scale, "decoder", config)
        self.config, self.every, self.max_images = config, every, max_images
        self.dropped = self.failed = 0
        self.errors: list[BaseException] = []
        self._consumer = consumer
        self._max_queue = max_queue
        self._queue: deque[tuple[Any, Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="taesd-jax previews", daemon=True)
        self._worker.start()

    def tap(self, params: Params, step: int | jax.Array, latents: jax.Array) -> None:
        """Show the latents of a step if `every` divides it.

        Inside `scan`, `fori_loop`, `while_loop`, `vmap`, `grad` and on several devices this becomes
        part of the compiled sampler; under `pmap`, `shard_map` and `vmap` each device or example
        shows its own. Outside jit it dispatches the decoding and returns without waiting.

        Args:
            params: As for `decode`.
            step: Number of the step.
            latents: (n, h, w, z) in model space, of videos (n, t, h, w, z); `predict_x0` removes
                the noise of noisy ones.

        Raises:
            ValueError: The latents do not fit the config.
            TypeError: The latents are not floating point.
        """
        if isinstance(self.config, VideoConfig):
            check_latents(latents, self.config)
        else:
            check_latent(latents, self.config)
        latents = _replicate(latents)[: self.max_images]
        used = {"decoder": select_component(params, "decoder")}
        if self.scale != 1:
            used["thumbnails"] = params.get("thumbnails", {})
        if not any(isinstance(x, Tracer) for x in jax.tree.leaves((used, step, latents))):
            if int(step) % self.every == 0:
                self._receive(int(step), self._pixels(used, latents))
            return

        def show(params: Params, step: jax.Array, latents: jax.Array) -> None:
            pixels = self._pixels(params, latents)
            jax.debug.callback(self._receive, step, pixels, ordered=False)

        inputs = lax.stop_gradient(place((used, jnp.asarray(step), latents)))
        lax.cond(inputs[1] % self.every == 0, show, lambda *_: None, *inputs)

    def close(self) -> None:
        """Wait until the queued previews are shown; warn if the consumer raised."""
        try:
            jax.effects_barrier()
        finally:
            with self._changed:
                was_open = not self._closed
                self._closed = True
                self._changed.notify()
            self._worker.join()
        if was_open and self.errors:
            warn(f"{self.failed} previews failed; the first: {self.errors[0]!r}")

    def __enter__(self) -> PreviewStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pixels(self, params: Params, latents: jax.Array) -> jax.Array:
        # 8 bits on the device: a quarter of the bytes to transfer.
        if isinstance(self.config, VideoConfig):
            return decode_video(params, latents, config=self.config, chunk=1, out_dtype="uint8")
        return decode(params, latents, config=self.config, scale=self.scale, out_dtype="uint8")

    def _receive(self, step: Any, pixels: Any) -> None:
        # Under vmap a batched step turns `cond` into `select`, which runs both branches.
        if int(step) % self.every:
            return
        with self._changed:
            if self._closed:
                self.dropped += 1
                return
            if len(self._queue) == self._max_queue:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append((step, pixels))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    break
                step, pixels = self._queue.popleft()
            try:
                self._consumer(int(step), np.asarray(pixels))
            except BaseException as error:  # the user's consumer must not stop the sampling
                self._record(error)
        try:
            getattr(self._consumer, "close", lambda: None)()
        except BaseException as error:
            self._record(error)

    def _record(self, error: BaseException) -> None:
        self.failed += 1
        if len(self.errors) < _MAX_ERRORS:
            self.errors.append(error)


def _replicate(latents: jax.Array) -> jax.Array:
    """Replicate explicitly sharded latents, which cannot be sliced."""
    if isinstance(latents, np.ndarray):
        return latents
    sharding = jax.typeof(latents).sharding
    if not any(axis is not None for axis in sharding.spec):
        return latents
    replicated = NamedSharding(sharding.mesh, PartitionSpec(*[None] * latents.ndim))
    return jax.sharding.reshard(latents, replicated)

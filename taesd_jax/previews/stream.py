"""Previews out of a sampler while it runs, inside jit or between compiled chunks of steps."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..model.functional import Params, select_component
from ..model.thumbnails import scales_of
from ..model.validation import check_count, check_latent

Consumer = Callable[[int, np.ndarray], object]


class PreviewStream:
    """Show pictures of a sampler's latents without touching the sampling.

    `tap` stands in the loop; pictures arrive at `consumer` on a thread of their own. A slow
    consumer misses pictures, the oldest first; one that raises is called again for the next
    picture. The sampler gets the same bits as without previews, and never waits. A compiled sampler
    keeps the stream that it was traced with: trace it anew for another stream.

    Args:
        consumer: Called with the step and 8-bit pixels (n, h, w, 3). If it has a method `close`,
            that is called last.
        config: Architecture of the autoencoder.
        every: Show each step that this divides.
        scale: 1, or a reduced size: 1/8 takes 2 % of the work. See `decode`.
        max_images: Show so many images of the batch at most.
        waiting: Pictures that may wait for the consumer.

    Attributes:
        dropped: Pictures that a slow consumer missed, or that came after the stream was closed.
        failed: Pictures that the consumer raised on.
        errors: The first few of what it raised.

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
        config: AutoencoderTinyConfig,
        every: int = 1,
        scale: float = 1,
        max_images: int = 1,
        waiting: int = 16,
    ):
        if not callable(consumer):
            raise TypeError(f"consumer must be callable, got {type(consumer).__name__}")
        for name, value in (("every", every), ("max_images", max_images), ("waiting", waiting)):
            check_count(name, value)
        if scale != 1 and scale not in scales_of(config):
            raise ValueError(f"scale must be 1 or one of {scales_of(config)}, got {scale!r}")
        self.config, self.every, self.scale, self.max_images = config, every, scale, max_images
        self.dropped = self.failed = 0
        self.errors: list[BaseException] = []
        self._consumer = consumer
        self._limit = waiting
        self._queue: deque[tuple[Any, Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="taesd-jax previews", daemon=True)
        self._worker.start()

    def tap(self, params: Params, step: int | jax.Array, latents: jax.Array) -> None:
        """Show the latents of a step, if it is one to show.

        Inside `scan`, `fori_loop`, `while_loop`, `vmap`, `grad` and on several devices it becomes
        part of the compiled sampler; under `pmap`, `shard_map` and `vmap` each device or example
        shows its own. Between compiled chunks of steps it decodes there and then, without waiting.

        Args:
            params: {"decoder": ...}, as for `decode`, and {"thumbnails": ...} for a reduced size.
            step: Number of the step.
            latents: (n, h, w, z) in model space. `predict_x0` makes clearer ones out of noisy ones.

        Raises:
            ValueError: The latents are not of the config.
            TypeError: The latents are not floating point.
        """
        check_latent(latents, self.config)
        latents = lax.stop_gradient(_gathered(latents)[: self.max_images])
        wanted = {"decoder": select_component(params, "decoder")}
        if self.scale != 1:
            wanted["thumbnails"] = params.get("thumbnails", {})
        params = lax.stop_gradient(wanted)
        traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((params, step, latents)))
        if not traced:
            if int(step) % self.every == 0:
                self._receive(step, self._pixels(params, latents))
            return

        def show(params: Params, step: jax.Array, latents: jax.Array) -> None:
            pixels = self._pixels(params, latents)
            jax.debug.callback(self._receive, step, pixels, ordered=False)

        def skip(*_: Any) -> None:
            return None

        step = jnp.asarray(step)
        lax.cond(step % self.every == 0, show, skip, params, step, latents)

    def close(self) -> None:
        """Wait until every picture on its way is shown; warn of what the consumer raised."""
        try:
            jax.effects_barrier()
        finally:
            with self._changed:
                first = not self._closed
                self._closed = True
                self._changed.notify()
            self._worker.join()
        if first and self.errors:
            message = f"{self.failed} previews failed; the first: {self.errors[0]!r}"
            warnings.warn(message, stacklevel=2)

    def __enter__(self) -> PreviewStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pixels(self, params: Params, latents: jax.Array) -> jax.Array:
        image = AutoencoderTiny(params, self.config).decode(latents, scale=self.scale).sample
        # Rounded on the device: a quarter of the bytes to transfer.
        levels = jnp.round((jnp.clip(image.astype(jnp.float32), -1, 1) + 1) * 127.5)
        return levels.astype(jnp.uint8)

    def _receive(self, step: Any, pixels: Any) -> None:
        # Under vmap a batched step turns the condition into a selection: both sides run.
        if int(step) % self.every:
            return
        with self._changed:
            if self._closed:
                self.dropped += 1
                return
            if len(self._queue) == self._limit:
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
            except BaseException as error:  # the consumer is the user's; sampling goes on
                self._note(error)
        try:
            getattr(self._consumer, "close", lambda: None)()
        except BaseException as error:
            self._note(error)

    def _note(self, error: BaseException) -> None:
        self.failed += 1
        # Each holds its picture, by the frames of its trace.
        if len(self.errors) < 4:
            self.errors.append(error)


def predict_x0(
    latents: jax.Array,
    output: jax.Array,
    *,
    kind: Literal["epsilon", "v", "flow"],
    alpha: ArrayLike = 1.0,
    sigma: ArrayLike,
) -> jax.Array:
    """Predict the clean latents from noisy ones, alpha x0 + sigma noise, and a model's output.

    Args:
        latents: Noisy latents (n, ...).
        output: What the model predicts: the noise ("epsilon"), alpha noise - sigma x0 ("v",
            arXiv:2202.00512) or noise - x0 ("flow", arXiv:2209.03003).
        kind: Which of them.
        alpha: sqrt(alphas_cumprod) of a DDPM schedule, 1 where sigmas grow beyond 1 (Karras); not
            used for "flow", where it is 1 - sigma.
        sigma: sqrt(1 - alphas_cumprod) of a DDPM schedule, else the schedule's sigma. Like alpha
            one number, one of each example (n,), or of any shape with the latents' rank.

    Raises:
        ValueError: The kind is unknown, or alpha or sigma has another shape.

    >>> x0, noise = jnp.float32(2), jnp.float32(1)
    >>> float(predict_x0(0.75 * x0 + 0.25 * noise, noise - x0, kind="flow", sigma=0.25))
    2.0
    """
    alpha, sigma = (_of_examples(jnp.asarray(v, latents.dtype), latents) for v in (alpha, sigma))
    if kind == "epsilon":
        return (latents - sigma * output) / alpha
    if kind == "v":
        return alpha * latents - sigma * output
    if kind == "flow":
        return latents - sigma * output
    raise ValueError(f"kind must be 'epsilon', 'v' or 'flow', got {kind!r}")


def _of_examples(value: jax.Array, latents: jax.Array) -> jax.Array:
    if value.shape == latents.shape[:1] and latents.ndim > 1:
        return value.reshape(-1, *[1] * (latents.ndim - 1))
    if value.ndim not in (0, latents.ndim):
        raise ValueError(
            f"alpha and sigma must be numbers, of shape {latents.shape[:1]} or of rank "
            f"{latents.ndim}, got shape {value.shape}"
        )
    return value


def _gathered(latents: jax.Array) -> jax.Array:
    """Return latents that every device has, where an explicit sharding would forbid to slice."""
    latents = jnp.asarray(latents)
    sharding = jax.typeof(latents).sharding
    if not any(axis is not None for axis in sharding.spec):
        return latents
    everywhere = NamedSharding(sharding.mesh, PartitionSpec(*[None] * latents.ndim))
    return jax.sharding.reshard(latents, everywhere)

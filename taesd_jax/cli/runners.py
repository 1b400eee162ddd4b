"""What `taesd-jax bench` runs: one component on one random input, by this library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..config import AutoencoderTinyConfig
from ..model.functional import Params, abstract_params
from ..model.layers import HALVES, Half

OURS = "taesd-jax"
UINT8 = "  as uint8"
WITHOUT_KERNELS = "  no kernels"


class Case(NamedTuple):
    """What is run.

    Attributes:
        config: Architecture; the weights are random, which changes no time.
        half: "encoder" or "decoder".
        size: Side of the image.
        batch: Images at a time.
        dtype: Dtype of params, input and computation.
        threads: CPU threads, the same for all.
    """

    config: AutoencoderTinyConfig
    half: Half
    size: int
    batch: int
    dtype: str
    threads: int

    @property
    def input(self) -> np.ndarray:
        """A random input, NHWC and float32."""
        side, channels = self.size, self.config.in_channels
        if self.half == "decoder":
            side, channels = side // self.config.spatial_factor, self.config.latent_channels
        x = np.random.default_rng(0).standard_normal((self.batch, side, side, channels))
        return np.clip(x, -1, 1).astype(np.float32) if self.half == "encoder" else x.astype("f")


class Runner(NamedTuple):
    """One way to run a case.

    Attributes:
        start: Hands the work to the device and returns its result, finished or not.
        wait: Returns when a result is finished.
        fetch: Returns a result in host memory, NHWC.
    """

    start: Callable[[], Any]
    wait: Callable[[Any], Any]
    fetch: Callable[[Any], np.ndarray]


def random_params(config: AutoencoderTinyConfig) -> Params:
    """Draw params without starting a backend, so that peers do not carry JAX's memory."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 100
        return (rng.standard_normal(shape.shape) / np.sqrt(fan_in)).astype(np.float32)

    return {half: jax.tree.map(draw, abstract_params(half, config)) for half in HALVES}


def jax_runner(run: Callable[[], jax.Array]) -> Runner:
    """Return the runner of a function that dispatches to JAX."""
    return Runner(run, jax.block_until_ready, np.asarray)

"""What `taesd-jax bench` runs: one component on one random input, by this library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..autoencoder import AutoencoderTiny
from ..config import AutoencoderTinyConfig
from ..kernels import count_multiprocessors, has_onednn, is_half
from ..model.functional import Params, abstract_params
from ..model.layers import COMPONENTS, Component, num_stages
from ..strategies.run import decode, encode
from ..strategies.strategy import Full, Strategy, Strips, min_full_stages

OURS, UINT8, NO_KERNELS = "taesd-jax", "uint8", "no kernels"
# Of a name and a case to start, wait and fetch.
MakePeer = Callable[..., tuple[Callable[..., Any], ...]]


class Case(NamedTuple):
    """What is run.

    Attributes:
        config: Architecture; the weights are random, which changes no time.
        component: "encoder" or "decoder".
        size: Side of the image.
        batch: Images at a time.
        dtype: Dtype of params, input and computation.
        threads: CPU threads, the same for all.
    """

    config: AutoencoderTinyConfig
    component: Component
    size: int
    batch: int
    dtype: str
    threads: int

    @property
    def input(self) -> np.ndarray:
        """A random input, NHWC and float32."""
        side, channels = self.size, self.config.in_channels
        if self.component == "decoder":
            side, channels = side // self.config.spatial_factor, self.config.latent_channels
        x = np.random.default_rng(0).standard_normal((self.batch, side, side, channels))
        return (np.clip(x, -1, 1) if self.component == "encoder" else x).astype(np.float32)


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

    return {name: jax.tree.map(draw, abstract_params(name, config)) for name in COMPONENTS}


def default_names(case: Case) -> list[str]:
    """Name what is run of ours: `AutoencoderTiny`, and what else pays a look on this device."""
    names = [OURS]
    if case.component == "decoder":
        names.append(UINT8)
    if is_half(case.dtype) and (count_multiprocessors() or has_onednn(case.dtype)):
        names.append(NO_KERNELS)
    return names


def strategies_of(component: Component, config: AutoencoderTinyConfig) -> dict[str, Strategy]:
    """Name the strategies that are compared: full, and strips of several heights."""
    strategies: dict[str, Strategy] = {"full": Full(), NO_KERNELS: Full(kernels=False)}
    for stages in range(min_full_stages(config), num_stages(component, config)):
        for rows in (2, 4, 8, 16):
            strategies[f"strips {stages}, {rows}"] = Strips(stages, rows)
    return strategies


def make_runner(name: str, case: Case, make_peer: MakePeer | None) -> Runner:
    """Build a runner: ours, one of our strategies, or a peer.

    Raises:
        ImportError: It is not installed.
        ValueError: It cannot run this case.
    """
    params, x = random_params(case.config), case.input
    strategies = strategies_of(case.component, case.config)
    if name not in (OURS, UINT8) and name not in strategies:
        if make_peer is None:
            raise ImportError("torch is not installed")
        options = {"dtype": case.dtype, "threads": case.threads}
        return Runner(*make_peer(name, params, case.config, case.component, x, **options))
    params = jax.tree.map(lambda p: jnp.asarray(p, case.dtype), params)
    return Runner(_start(name, case, params, strategies), jax.block_until_ready, np.asarray)


def _start(
    name: str, case: Case, params: Params, strategies: dict[str, Strategy]
) -> Callable[[], jax.Array]:
    value, decoding = jnp.asarray(case.input, case.dtype), case.component == "decoder"
    if name in strategies:
        run, strategy = decode if decoding else encode, strategies[name]
        return lambda: run(params, value, config=case.config, strategy=strategy)
    vae = AutoencoderTiny(params, case.config)
    if name == UINT8:
        return lambda: vae.decode(value, out_dtype="uint8").sample
    return lambda: vae.decode(value).sample if decoding else vae.encode(value).latents

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
        variant: Name of the model; the weights are random, which changes no time.
        config: Its architecture.
        component: "encoder" or "decoder".
        size: Side of the image.
        batch: Images at a time.
        dtype: Dtype of params, input and computation.
        threads: CPU threads, the same for all.
    """

    variant: str
    config: AutoencoderTinyConfig
    component: Component
    size: int
    batch: int
    dtype: str
    threads: int

    @property
    def pictures(self) -> int:
        """Images that are read or come out."""
        return self.batch

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input, NHWC."""
        side, channels = self.size, self.config.in_channels
        if self.component == "decoder":
            side, channels = side // self.config.spatial_factor, self.config.latent_channels
        return (self.batch, side, side, channels)

    @property
    def title(self) -> str:
        """What it is, in words."""
        size = f"{self.size}x{self.size}"
        return f"{self.variant} {self.component}, {size}, batch {self.batch}, {self.dtype}"

    def draw_input(self) -> np.ndarray:
        """Draw an input, float32."""
        x = np.random.default_rng(0).standard_normal(self.shape)
        return (np.clip(x, -1, 1) if self.component == "encoder" else x).astype(np.float32)

    def step(self) -> tuple[Case, int]:
        """Return what is counted, and how many times it runs."""
        return self, 1

    def program(self) -> tuple[Any, Params]:
        """Return what is computed, a function of params and input, and the shapes of params."""
        params = {self.component: abstract_params(self.component, self.config)}
        run = decode if self.component == "decoder" else encode
        # Of kernels of our own XLA counts nothing.
        strategy = Full(kernels=False)
        return lambda p, x: run(p, x, config=self.config, strategy=strategy), params

    def is_ours(self, name: str) -> bool:
        """Return whether a runner is of this library."""
        return name in (OURS, UINT8) or name in strategies_of(self.component, self.config)

    def names(self, peers: list[str], *, strategies: bool) -> list[str]:
        """Name what is run: ours, and its strategies or the peers."""
        if strategies:
            return [OURS, *strategies_of(self.component, self.config)]
        names = [OURS]
        if self.component == "decoder":
            names.append(UINT8)
        # What else pays a look on this device.
        if is_half(self.dtype) and (count_multiprocessors() or has_onednn(self.dtype)):
            names.append(NO_KERNELS)
        return [*names, *peers]

    def shapes(self) -> Params:
        """Return the shapes of both components' params."""
        return {part: abstract_params(part, self.config) for part in COMPONENTS}

    def model_of_peer(self, params: Params) -> tuple[Any, ...]:
        """Return what a peer gets of the model: the params, and whose they are."""
        return params, self.config, self.component

    def start(self, name: str, params: Params, x: jax.Array) -> Callable[[], jax.Array]:
        """Return a function that starts one of our runners."""
        strategies = strategies_of(self.component, self.config)
        decoding = self.component == "decoder"
        if name in strategies:
            run, strategy = decode if decoding else encode, strategies[name]
            return lambda: run(params, x, config=self.config, strategy=strategy)
        vae = AutoencoderTiny(params, self.config)
        if name == UINT8:
            return lambda: vae.decode(x, out_dtype="uint8").sample
        return lambda: vae.decode(x).sample if decoding else vae.encode(x).latents


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


def make_runner(case: Any, name: str, make_peer: MakePeer | None) -> Runner:
    """Build a runner of a case, images or video: ours, or a peer.

    Raises:
        ImportError: It is not installed.
        ValueError: It cannot run this case.
    """
    params, x = draw_params(case.shapes()), case.draw_input()
    if not case.is_ours(name):
        if make_peer is None:
            raise ImportError("torch is not installed")
        options = {"dtype": case.dtype, "threads": case.threads}
        return Runner(*make_peer(name, *case.model_of_peer(params), x, **options))
    params = jax.tree.map(lambda p: jnp.asarray(p, case.dtype), params)
    start = case.start(name, params, jnp.asarray(x, case.dtype))
    return Runner(start, jax.block_until_ready, np.asarray)


def draw_params(shapes: Params) -> Params:
    """Draw params without starting a backend, so that peers do not carry JAX's memory."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 100
        return (rng.standard_normal(shape.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def strategies_of(component: Component, config: AutoencoderTinyConfig) -> dict[str, Strategy]:
    """Name the strategies that are compared: full, and strips of several heights."""
    strategies: dict[str, Strategy] = {"full": Full(), NO_KERNELS: Full(kernels=False)}
    for stages in range(min_full_stages(config), num_stages(component, config)):
        for rows in (2, 4, 8, 16):
            strategies[f"strips {stages}, {rows}"] = Strips(stages, rows)
    return strategies

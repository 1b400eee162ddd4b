"""A report on the differences from PyTorch, of each layer and of the full components."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from taesd_jax.config import AutoencoderTinyConfig
from taesd_jax.io.images import pad_image, read_image
from taesd_jax.model.functional import bind
from taesd_jax.model.layers import COMPONENTS, Component, Layer, Params, build_layers
from taesd_jax.model.modules import Network, apply_layer

from .state_dicts import to_array, to_tensor
from .torch_modules import TorchAutoencoderTiny

# Sums of 64 x 9 float32 products in another order, through some 40 convolutions, differed by 5e-6
# on [-1, 1]. The bound is relative to activations larger than 1.
FLOAT32_BOUND = 5e-5
# Largest ratio of our mean error in half precision to PyTorch's; both round at every layer.
HALF_RATIO = 1.2
# PyTorch's error in a dtype is the difference between its float32 and this.
_COMPARED_WITH = {"float32": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Mean errors below these, relative to the scale, always pass: one step at 1 is 2^-7 and 2^-10.
_FLOORS = {"bfloat16": 2**-12, "float16": 2**-15}


@dataclasses.dataclass(frozen=True)
class ParityRow:
    """The errors of one layer or component against PyTorch's float32.

    Attributes:
        component: "encoder" or "decoder".
        layer: Index and kind, or "full".
        dtype: Dtype of the computation.
        shape: Shape of the output, NHWC.
        scale: Largest absolute value of PyTorch's float32 output.
        max_error: Our largest absolute error.
        mean_error: Our mean absolute error.
        torch_max_error: PyTorch's largest absolute error: of its float32 against its float64, or of
            its half precision against its float32.
        torch_mean_error: The same, mean instead of largest.
        ok: Whether the bound for this dtype holds.
    """

    component: str
    layer: str
    dtype: str
    shape: tuple[int, ...]
    scale: float
    max_error: float
    mean_error: float
    torch_max_error: float
    torch_mean_error: float
    ok: bool


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """The rows of a report."""

    variant: str | None
    rows: tuple[ParityRow, ...]

    @property
    def ok(self) -> bool:
        """Whether every row holds its bound."""
        return all(row.ok for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return {
            "variant": self.variant,
            "ok": self.ok,
            "bounds": {"float32_max_error": FLOAT32_BOUND, "half_mean_ratio": HALF_RATIO},
            "versions": {"jax": jax.__version__, "torch": torch.__version__},
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def table(self, *, layers: bool = True) -> str:
        """Return the report as text, a line for each row.

        Args:
            layers: Whether to list layers that hold their bound, beside the full components.
        """
        head = f"{'component':<11}{'layer':<18}{'dtype':<10}{'max error':>11}{'mean error':>12}"
        lines = [f"{head}{'torch max':>11}{'torch mean':>12}"]
        for row in self.rows:
            if not layers and row.ok and row.layer != "full":
                continue
            lines.append(
                f"{row.component:<11}{row.layer:<18}{row.dtype:<10}{row.max_error:>11.2e}"
                f"{row.mean_error:>12.2e}{row.torch_max_error:>11.2e}"
                f"{row.torch_mean_error:>12.2e}"
                f"  {'ok' if row.ok else 'TOO FAR'}"
            )
        count = sum(not row.ok for row in self.rows)
        lines.append(
            f"{count or 'none'} of {len(self.rows)} rows break their bound: float32 max error "
            f"{FLOAT32_BOUND:g} (times the output's scale where that exceeds 1), bfloat16 and "
            f"float16 mean error {HALF_RATIO:g} times PyTorch's"
        )
        return "\n".join(lines)


def parity_report(
    params: Params,
    config: AutoencoderTinyConfig,
    *,
    image: str | os.PathLike[str] | np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[str], object] = lambda line: None,
) -> ParityReport:
    """Run both frameworks on one image and compare every layer and both components.

    Each layer gets PyTorch's float32 activation as input, so that its row shows its error alone.
    The rows "full" show the accumulated error.

    Args:
        params: {"encoder": ..., "decoder": ...}; either component may be absent.
        config: Architecture.
        image: Image file, or image (h, w, 3) in [-1, 1]; smooth noise by default.
        seed: Seed of the default image, and of the latent where there is no encoder.
        progress: Called with a line on what is compared next.
    """
    image = read_image(image) if isinstance(image, (str, os.PathLike)) else image
    if image is None:
        image = _noise(seed, 3 * config.spatial_factor + 40)
    image = pad_image(image, config.spatial_factor)[None]
    # The weights as float32 in both frameworks: bfloat16 rows then round the same numbers.
    params = jax.tree.map(lambda p: np.asarray(p, dtype=np.float32), params)
    rows: list[ParityRow] = []
    inputs: dict[Component, np.ndarray] = {"encoder": image}
    if "encoder" not in params:
        shape = (1, 16, 12, config.latent_channels)
        inputs["decoder"] = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    for component in COMPONENTS:
        if component in params:
            component_rows, result = _compare(
                params, config, component, inputs[component], progress
            )
            rows += component_rows
            inputs["decoder"] = result
    return ParityReport(config.variant, tuple(rows))


def _compare(
    params: Params,
    config: AutoencoderTinyConfig,
    component: Component,
    x: np.ndarray,
    progress: Callable[[str], object],
) -> tuple[list[ParityRow], np.ndarray]:
    sequence = getattr(TorchAutoencoderTiny(params, config), component)
    module = bind(jax.tree.map(jnp.asarray, params[component]), component, config)
    rows = []
    with torch.no_grad():
        truth = _to_nchw(x)
        activation = (truth + 1) / 2 if component == "encoder" else truth
        for layer in build_layers(component, config):
            progress(f"comparing layer {layer.index} of the {component}")
            # The published sequence has an upsample before its convolution.
            start = layer.index - (layer.kind == "upsample_conv")
            stop = layer.index + 1 + bool(layer.activation)
            layers = torch.nn.Sequential(*list(sequence)[start:stop])
            before, activation = activation, layers(activation)
            ours = _compiled(module, layer)
            for dtype in _COMPARED_WITH:
                got = ours(jnp.asarray(_to_nhwc(before), dtype=dtype)).astype(dtype)
                other = _in_dtype(layers, before, _COMPARED_WITH[dtype])
                name = f"{layer.index} {layer.kind}"
                rows.append(_row(component, name, dtype, got, activation, other))
        expected = sequence(truth)
        for dtype in _COMPARED_WITH:
            got = jax.jit(lambda x: module(x))(jnp.asarray(x, dtype=dtype))
            other = _in_dtype(sequence, truth, _COMPARED_WITH[dtype])
            rows.append(_row(component, "full", dtype, got, expected, other))
    return rows, _to_nhwc(expected)


def _compiled(module: Network, layer: Layer) -> Callable[[jax.Array], jax.Array]:
    """Return one layer of a module as a function; equal layers share a compiled program."""
    if layer.kind == "clamp":
        return jax.jit(lambda x: apply_layer(module, layer, x))
    graph, params = nnx.split(getattr(module, layer.name))
    options = () if layer.activation is None else (("activation", layer.activation),)
    return functools.partial(_apply, graph, options, params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(graph: Any, options: tuple[Any, ...], params: Any, x: jax.Array) -> jax.Array:
    return nnx.merge(graph, params)(x, **dict(options))


def _in_dtype(module: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return copy.deepcopy(module).to(dtype)(x.to(dtype))


def _row(
    component: str,
    layer: str,
    dtype: str,
    got: jax.Array,
    expected: torch.Tensor,
    other: torch.Tensor,
) -> ParityRow:
    ours, theirs = np.asarray(got, dtype=np.float32), _to_nhwc(expected)
    error = np.abs(ours - theirs)
    torch_error = (expected.double() - other.double()).abs().numpy()
    scale = float(np.abs(theirs).max())
    if dtype == "float32":
        ok = error.max() <= FLOAT32_BOUND * max(1.0, scale)
    else:
        ok = error.mean() <= max(HALF_RATIO * torch_error.mean(), _FLOORS[dtype] * scale)
    return ParityRow(
        component,
        layer,
        dtype,
        shape=tuple(ours.shape),
        scale=scale,
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        torch_max_error=float(torch_error.max()),
        torch_mean_error=float(torch_error.mean()),
        ok=bool(ok),
    )


def _to_nchw(x: np.ndarray) -> torch.Tensor:
    return to_tensor(x.transpose(0, 3, 1, 2))


def _to_nhwc(x: torch.Tensor) -> np.ndarray:
    return to_array(x.float()).transpose(0, 2, 3, 1)


def _noise(seed: int, side: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(-1, 1, (side // 4 + 1, side // 4, 3))
    smooth = np.kron(coarse, np.ones((4, 4, 1)))
    return smooth.astype(np.float32)

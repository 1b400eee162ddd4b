"""State dicts and modules in memory, from PyTorch to params and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from taesd_jax import weights
from taesd_jax.config import AutoencoderTinyConfig
from taesd_jax.errors import CheckpointError
from taesd_jax.model.layers import COMPONENTS, Params
from taesd_jax.weights.names import KeyFormat

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def from_torch(
    source: torch.nn.Module | Mapping[str, torch.Tensor], *, variant: str = ""
) -> weights.Checkpoint:
    """Read a module or state dict into params, in the dtype that it has.

    Args:
        source: diffusers' `AutoencoderTiny`, the original `TAESD`, one of its components, or a
            state dict of any format. A module's `config`, if any, is read too.
        variant: Name of the variant, where shapes cannot tell it.

    Raises:
        CheckpointError: It is not a model of this family; lists every tensor that is missing,
            unexpected or mis-shaped.
    """
    fields: Mapping[str, Any] = {}
    if isinstance(source, torch.nn.Module):
        fields = _fields(source)
        source = source.state_dict()
    origin = "the state dict"
    parts = [part_of(source, origin)]
    return weights.assemble(parts, fields=fields, variant=variant, origin=origin)


def to_torch(
    params: Params, config: AutoencoderTinyConfig, *, format: KeyFormat = "diffusers"
) -> dict[str, torch.Tensor]:
    """Return a state dict in a format, with the dtype of the params.

    Args:
        params: {"encoder": ..., "decoder": ...}; "original" takes only one of them.
        config: Architecture.
        format: "diffusers", "comfyui", "original" for one component, or "module" for the
            `encoder.N` and `decoder.N` of the original's `TAESD` class.

    Raises:
        CheckpointError: The format cannot express this model.
    """
    components = [component for component in COMPONENTS if component in params]
    if format == "original" and len(components) != 1:
        raise CheckpointError(
            f"format 'original' holds one component, got {components}; pass one component, or "
            f"choose format 'module'"
        )
    files = weights.serialise(params, config, format=format)
    return {name: to_tensor(t) for tensors in files.values() for name, t in tensors.items()}


def part_of(state: Mapping[str, Any], origin: str) -> weights.Part:
    """Return a state dict as a part for `taesd_jax.weights.assemble`.

    Raises:
        CheckpointError: A key is not text.
    """
    if others := [name for name in state if not isinstance(name, str)]:
        raise CheckpointError(f"{origin}: names must be text, got {others[0]!r}")
    refused = {name: kind for name, value in state.items() if (kind := _refusal(value))}
    shapes = {name: tuple(value.shape) for name, value in state.items() if name not in refused}
    return weights.Part(
        origin, shapes, refused, lambda names: {n: to_array(state[n]) for n in names}
    )


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor into a numpy array with the same bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("bfloat16").copy()
    return tensor.numpy().copy()


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Copy a numpy array into a tensor with the same bits."""
    array = np.array(array, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _refusal(value: Any) -> str:
    """Return what a value is that cannot be a param, or "" for a tensor that can."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    kinds = {"meta": value.is_meta, "nested": value.is_nested, "negated": value.is_neg()}
    if kind := next((name for name, holds in kinds.items() if holds), ""):
        return kind
    if value.layout != torch.strided:
        return str(value.layout)
    if value.dtype not in _DTYPES:
        return str(value.dtype)
    # An expanded view may be larger than memory.
    repeats = value.untyped_storage().nbytes() < value.numel() * value.element_size()
    return "larger than what is stored" if repeats else ""


def _fields(module: torch.nn.Module) -> Mapping[str, Any]:
    config = getattr(module, "config", None)
    if isinstance(config, AutoencoderTinyConfig):
        return config.to_dict()
    if isinstance(config, Mapping):
        return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
    return {}

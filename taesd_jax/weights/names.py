"""The names of a component's tensors in every format; needs no jax.

One rule serves all: a published key is `INDEX.rest`, and a format puts a prefix before it.

| format   | encoder             | decoder             | index of the decoder          |
| -------- | ------------------- | ------------------- | ----------------------------- |
| original | N.                  | N.                  | as published; one component a file |
| module   | encoder.N.          | decoder.N.          | as published                  |
| diffusers| encoder.layers.N.   | decoder.layers.N.   | one less: no Clamp            |
| comfyui  | taesd_encoder.N.    | taesd_decoder.N.    | as published                  |
| flax     | encoder.layers_N.   | decoder.layers_N.   | as published                  |

A Flax name joins numbers to the word before them and says kernel and scale for weight:
`3.conv.0.weight` is `layers_3.conv_0.kernel`, `3.pool.1.weight` is `layers_3.pool_1.scale`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from ..errors import CheckpointError
from ..model.layers import COMPONENTS, Component, Layer

# "module" is that of the original's `TAESD` class in memory; no file has it.
KeyFormat = Literal["original", "module", "diffusers", "comfyui", "flax"]
Shape = tuple[int, ...]

PREFIXES: Mapping[KeyFormat, Mapping[Component, str]] = {
    "diffusers": {"encoder": "encoder.layers.", "decoder": "decoder.layers."},
    "comfyui": {"encoder": "taesd_encoder.", "decoder": "taesd_decoder."},
    "flax": {"encoder": "encoder.layers_", "decoder": "decoder.layers_"},
    "module": {"encoder": "encoder.", "decoder": "decoder."},
    "original": {"encoder": "", "decoder": ""},
}
# What other programs put before all names of a model that is a part of theirs: pipelines' names for
# the VAE, PyTorch's wrappers for several devices and for compiled modules.
WRAPPERS = ("first_stage_model.", "vae.", "tae.", "module.", "_orig_mod.", "state_dict.")
# Wrappers around each other that are taken off.
_MAX_NESTING = 3
COMFYUI_SCALARS = ("vae_scale", "vae_shift")

_FLAX = re.compile(r"(\d+)(?:\.(conv|pool|skip)(?:_(\d+))?)?\.(kernel|scale|bias)")
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_PUBLISHED = re.compile(r"(0|[1-9][0-9]{0,2})\.(.+)")


class SplitNames(NamedTuple):
    """The names in one file, sorted by `split`.

    Attributes:
        format: Format of the names.
        components: For each component, published key -> name in the file.
        scalars: ComfyUI's name of a scalar -> name in the file.
    """

    format: KeyFormat
    components: dict[Component, dict[str, str]]
    scalars: dict[str, str]

    @property
    def names(self) -> list[str]:
        """All names in the file that belong to the model."""
        groups = (*self.components.values(), self.scalars)
        return [name for group in groups for name in group.values()]


def tensor_shapes(layers: Iterable[Layer]) -> dict[str, Shape]:
    """Return published key -> PyTorch shape of every tensor of a component."""
    shapes: dict[str, Shape] = {}
    for layer in layers:
        i, n_in, n_out = layer.index, layer.in_channels, layer.out_channels
        if layer.kind in ("conv", "upsample_conv"):
            shapes[f"{i}.weight"] = (n_out, n_in, 3, 3)
            if layer.bias:
                shapes[f"{i}.bias"] = (n_out,)
        elif layer.kind == "block":
            for conv, width in ((0, n_in), (2, n_out), (4, n_out)):
                shapes[f"{i}.conv.{conv}.weight"] = (n_out, width, 3, 3)
                shapes[f"{i}.conv.{conv}.bias"] = (n_out,)
            if n_in != n_out:
                shapes[f"{i}.skip.weight"] = (n_out, n_in, 1, 1)
            if pool := layer.pool_channels:
                shapes[f"{i}.pool.0.weight"] = (pool, n_in, 1, 1)
                shapes[f"{i}.pool.1.weight"] = shapes[f"{i}.pool.1.bias"] = (pool,)
                shapes[f"{i}.pool.3.weight"] = (n_in, pool, 1, 1)
    return shapes


def unwrap(names: Iterable[str]) -> dict[str, str]:
    """Return names without the prefixes of `WRAPPERS` -> names in the file.

    Names outside a wrapper are left out, unless they might belong to a model as well.

    Raises:
        CheckpointError: Two wrappers stand side by side.
    """
    inside = {name: name for name in names}
    for _ in range(_MAX_NESTING):
        wrappers = [w for w in WRAPPERS if any(name.startswith(w) for name in inside)]
        if len(wrappers) > 1:
            raise CheckpointError(
                f"several models side by side, {' and '.join(wrappers)}: save one of them alone"
            )
        prefix = wrappers[0] if wrappers else ""
        outside = [name for name in inside if not name.startswith(prefix)]
        if any(
            _published(n, format, c) for n in outside for format in PREFIXES for c in COMPONENTS
        ):
            break
        inside = {n.removeprefix(prefix): inside[n] for n in inside if n.startswith(prefix)}
    return inside


def split(names: Mapping[str, str]) -> SplitNames:
    """Recognise the format of the names in a file and sort them by component.

    Args:
        names: Name -> name in the file, as from `unwrap`.

    Raises:
        CheckpointError: The names follow no format of this family; the message names the project
            they belong to where that is known.
    """
    for format in PREFIXES:
        components: dict[Component, dict[str, str]] = {}
        rest = []
        for name in names:
            for component in COMPONENTS:
                key = _published(name, format, component)
                if key is not None and key not in components.get(component, {}):
                    components.setdefault(component, {})[key] = names[name]
                    break
            else:
                rest.append(name)
        if format == "original" and components:
            # Without a prefix every key matched as an encoder's. A decoder's layers 0 and 2 have
            # no tensors, and its layer 1 is no block.
            keys = components["encoder"]
            if not any(key.startswith(("0.", "1.conv.", "2.")) for key in keys):
                components = {"decoder": keys}
        scalars = [n for n in rest if format == "comfyui" and n in COMFYUI_SCALARS]
        rest = [n for n in rest if n not in scalars]
        if components and not rest:
            return SplitNames(format, components, {name: names[name] for name in scalars})
        if components and len(rest) < len(names) / 2 and not _foreign(names):
            raise CheckpointError(f"tensors that belong to no component ({format} names): {rest}")
    raise CheckpointError(_foreign(names) or _unknown(names))


def file_name(key: str, component: Component, format: KeyFormat) -> str:
    """Return the name of a published key in a file of the given format.

    >>> file_name("3.conv.0.weight", "decoder", "diffusers")
    'decoder.layers.2.conv.0.weight'
    """
    if format == "flax":
        return flax_name(key, component)
    index, rest = key.split(".", 1)
    if format == "diffusers" and component == "decoder":
        index = str(int(index) - 1)
    return f"{PREFIXES[format][component]}{index}.{rest}"


def flax_name(key: str, component: Component) -> str:
    """Return the path of a published key in params, joined by dots.

    >>> flax_name("3.conv.0.weight", "decoder"), flax_name("3.pool.1.weight", "decoder")
    ('decoder.layers_3.conv_0.kernel', 'decoder.layers_3.pool_1.scale')
    """
    path, leaf = re.sub(r"\.(\d+)", r"_\1", f"{component}.layers.{key}").rsplit(".", 1)
    if leaf == "weight":
        leaf = "scale" if path.endswith(".pool_1") else "kernel"
    return f"{path}.{leaf}"


def to_flax(tensor: np.ndarray) -> np.ndarray:
    """Transpose a PyTorch kernel OIHW to HWIO; other tensors stay as they are."""
    return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0)) if tensor.ndim == 4 else tensor


def to_torch(tensor: np.ndarray) -> np.ndarray:
    """Transpose a Flax kernel HWIO to OIHW; other tensors stay as they are."""
    return np.ascontiguousarray(tensor.transpose(3, 2, 0, 1)) if tensor.ndim == 4 else tensor


def to_torch_shape(shape: Shape) -> Shape:
    """Return the PyTorch shape of a Flax tensor."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


def _published(name: str, format: KeyFormat, component: Component) -> str | None:
    prefix = PREFIXES[format][component]
    if not name.startswith(prefix):
        return None
    key = name.removeprefix(prefix)
    if format == "flax":
        match = _FLAX.fullmatch(key)
        if match is None:
            return None
        key = ".".join([match[1], *filter(None, match.group(2, 3)), _LEAVES[match[4]]])
    match = _PUBLISHED.fullmatch(key)
    if match is None:
        return None
    if format == "diffusers" and component == "decoder":
        return f"{int(match[1]) + 1}.{match[2]}"
    return key


def _foreign(names: Iterable[str]) -> str | None:
    if any(n.startswith(("tiny_vae.", "extra_encoder.", "extra_decoder.")) for n in names):
        return (
            "this is fal's FLUX.2-Tiny-AutoEncoder, another architecture; for FLUX.2 use taef2 of "
            "this family"
        )
    if any(".up_blocks." in n or ".down_blocks." in n or "quant_conv." in n for n in names):
        return (
            "this is a full AutoencoderKL, not a tiny autoencoder; load it with diffusers, or take "
            "the tiny model made for it"
        )
    if any(".mid.block_" in n or ".down.0." in n for n in names):
        return "this is a full VAE in its original format, not a tiny autoencoder"
    return None


def _unknown(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:5]) or "none"
    return (
        f"no tiny autoencoder of this family: expected tensors such as '0.weight' (original), "
        f"'encoder.layers.0.weight' (diffusers), 'taesd_encoder.0.weight' (ComfyUI) or "
        f"'encoder.layers_0.kernel' (Flax), got {len(names)} tensors: {shown}"
    )

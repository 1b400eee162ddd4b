"""Reads a checkpoint's architecture from the names and shapes of its tensors; needs no jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import VARIANTS, AutoencoderTinyConfig
from ..errors import CheckpointError
from ..model.layers import COMPONENTS, Component, build_layers
from .names import Shape, tensor_shapes

Shapes = Mapping[Component, Mapping[str, Shape]]


def recognise(shapes: Shapes) -> AutoencoderTinyConfig:
    """Return the config whose tensors are exactly the given ones.

    Args:
        shapes: For each component present, published key -> PyTorch shape. An absent component's
            fields are those of a published variant, or the defaults.

    Raises:
        CheckpointError: No architecture of this family has these tensors (lists every tensor that
            is missing, unexpected or mis-shaped against the nearest one), or the two components
            belong to different models.
    """
    readings: dict[Component, dict[str, Any]] = {
        component: fields for component in shapes if (fields := _read(component, shapes[component]))
    }
    alone: dict[Component, AutoencoderTinyConfig] = {
        component: config for component, fields in readings.items() if (config := _config(fields))
    }
    joint = _config(*readings.values())
    if joint and not difference(shapes, joint):
        return joint
    if len(alone) == len(COMPONENTS) and not any(
        difference({component: shapes[component]}, config) for component, config in alone.items()
    ):
        encoder, decoder = (_describe(alone[component]) for component in COMPONENTS)
        raise CheckpointError(
            f"encoder and decoder belong to different models: the encoder is of {encoder}, the "
            f"decoder of {decoder}; load an encoder and a decoder of one model"
        )
    candidates = (*VARIANTS.values(), *alone.values(), *([joint] if joint else []))
    nearest = min(candidates, key=lambda config: len(difference(shapes, config)))
    raise CheckpointError(
        f"the tensors fit no model of this family; the nearest is {_describe(nearest)}:\n"
        + "\n".join(difference(shapes, nearest))
    )


def difference(shapes: Shapes, config: AutoencoderTinyConfig) -> list[str]:
    """List the tensors in which `shapes` differ from those of `config`, a line for each."""
    lines = []
    for component, got in shapes.items():
        expected = tensor_shapes(build_layers(component, config))
        lines += [f"  {component} {k}: missing" for k in expected if k not in got]
        lines += [f"  {component} {k}: unexpected" for k in got if k not in expected]
        lines += [
            f"  {component} {k}: expected shape {expected[k]}, got {got[k]}"
            for k in expected
            if k in got and expected[k] != got[k]
        ]
    return lines


def _config(*readings: dict[str, Any]) -> AutoencoderTinyConfig | None:
    fields: dict[str, Any] = {}
    for reading in readings:
        if any(fields.get(k, v) != v for k, v in reading.items()):
            return None
        fields |= reading
    for row in VARIANTS.values():
        if all(getattr(row, k) == v for k, v in fields.items()):
            return row.architecture
    # The absent component gets as many stages as this one, 64 wide with three blocks each.
    stages = len(fields.get("encoder_stem_channels", ())) + len(
        fields.get("encoder_block_out_channels", fields.get("decoder_block_out_channels", ()))
    )
    default = {
        "encoder_block_out_channels": (64,) * stages,
        "num_encoder_blocks": (1,) + (3,) * (stages - 1),
        "decoder_block_out_channels": (64,) * stages,
        "num_decoder_blocks": (3,) * (stages - 1) + (1,),
    }
    try:
        return AutoencoderTinyConfig(**(default | fields))
    except ValueError:
        return None


def _read(component: Component, shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """Read a component's config fields from its tensors; None where they contradict each other.

    It reads only the tensors that it needs; the caller compares all of them afterwards.
    """
    try:
        return _read_encoder(shapes) if component == "encoder" else _read_decoder(shapes)
    except (KeyError, IndexError, ValueError):
        return None


def _read_encoder(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    indices = _indices(shapes)
    stem = []
    # The activation after each convolution of a stem leaves a gap in the indices.
    while indices[0] + 1 not in indices and f"{indices[0]}.bias" in shapes:
        stem.append(shapes[f"{indices.pop(0)}.weight"][0])
    first = stem[-1] if stem else shapes[f"{indices.pop(0)}.weight"][0]
    stages = _read_stages(shapes, indices, first)
    fields = {
        "in_channels": shapes["0.weight"][1],
        "latent_channels": stages.pop("channels"),
        "encoder_stem_channels": tuple(stem),
        "encoder_block_out_channels": stages.pop("widths"),
        "num_encoder_blocks": stages.pop("blocks"),
    }
    return fields | stages


def _read_decoder(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    indices = _indices(shapes)
    first = shapes[f"{indices.pop(0)}.weight"]
    stages = _read_stages(shapes, indices, first[0])
    fields = {
        "latent_channels": first[1],
        "out_channels": stages.pop("channels"),
        "decoder_block_out_channels": stages.pop("widths"),
        "num_decoder_blocks": stages.pop("blocks"),
    }
    return fields | stages


def _read_stages(shapes: Mapping[str, Shape], indices: list[int], width: int) -> dict[str, Any]:
    """Read stages of blocks; a convolution without bias opens each but the first."""
    widths, blocks = [width], [0]
    fields: dict[str, Any] = {"pool_channels": 0}
    for i in indices[:-1]:
        if f"{i}.conv.0.weight" in shapes:
            blocks[-1] += 1
            widths[-1] = shapes[f"{i}.conv.0.weight"][0]
            if f"{i}.skip.weight" in shapes:
                fields["width_change"] = "block"
            if f"{i}.pool.0.weight" in shapes:
                fields["pool_channels"] = shapes[f"{i}.pool.0.weight"][0]
        else:
            widths.append(shapes[f"{i}.weight"][0])
            blocks.append(0)
    channels = shapes[f"{indices[-1]}.weight"][0]
    return {"channels": channels, "widths": tuple(widths), "blocks": tuple(blocks), **fields}


def _indices(shapes: Mapping[str, Shape]) -> list[int]:
    return sorted({int(key.split(".")[0]) for key in shapes})


def _describe(config: AutoencoderTinyConfig) -> str:
    names = config.same_architecture
    size = f"{config.latent_channels} latent channels, {config.spatial_factor}x"
    return f"{' or '.join(names)} ({size})" if names else f"a model with {size}"

"""Registers `AutoencoderTiny` with `jax.export`, so that functions of one can be exported."""

from __future__ import annotations

import json

import jax.numpy as jnp
from jax import export

from .autoencoder import AutoencoderTiny
from .config import AutoencoderTinyConfig


def _serialise(static: tuple) -> bytes:
    fields = dict(static)
    fields["config"] = fields["config"].to_dict()
    fields["dtype"] = fields["dtype"] and fields["dtype"].name
    return json.dumps(fields, default=int).encode()


def _deserialise(data: bytes) -> tuple:
    fields = json.loads(data)
    fields["config"] = AutoencoderTinyConfig.from_dict(fields["config"])
    fields["dtype"] = fields["dtype"] and jnp.dtype(fields["dtype"])
    return tuple(fields.items())


export.register_pytree_node_serialization(
    AutoencoderTiny,
    serialized_name="taesd_jax.AutoencoderTiny",
    serialize_auxdata=_serialise,
    deserialize_auxdata=_deserialise,
)

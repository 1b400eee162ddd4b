"""Registers `AutoencoderTiny` with `jax.export`, so that functions of one can be exported."""

from __future__ import annotations

import json

import jax.numpy as jnp
from jax import export

from .autoencoder import AutoencoderTiny
from .config import AutoencoderTinyConfig


def _serialise(static: tuple) -> bytes:
    config, dtype, *rest = static
    return json.dumps([config.to_dict(), None if dtype is None else dtype.name, *rest]).encode()


def _deserialise(data: bytes) -> tuple:
    fields, name, *rest = json.loads(data)
    dtype = None if name is None else jnp.dtype(name)
    return AutoencoderTinyConfig.from_dict(fields), dtype, *rest


export.register_pytree_node_serialization(
    AutoencoderTiny,
    serialized_name="taesd_jax.AutoencoderTiny",
    serialize_auxdata=_serialise,
    deserialize_auxdata=_deserialise,
)

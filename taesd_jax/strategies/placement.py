"""Where arrays lie: on which devices, in how many parts, or in somebody's program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from ..model.inputs import copy_native


def with_auto_axes(run: Callable[[Any, jax.Array], jax.Array], x: jax.Array) -> Callable[..., Any]:
    """Leave an explicitly sharded x to XLA's partitioner; the result is sharded as x.

    It exchanges the edges that convolutions need, which JAX's own rules refuse to decide.
    """
    sharding = jax.typeof(x).sharding
    if not any(axis is not None for axis in sharding.spec):
        return run
    return jax.sharding.auto_axes(run, out_sharding=sharding)


def batch_sharding(x: Any) -> NamedSharding | None:
    """Return the sharding of x if only its batch is divided, as far as can be seen, else None."""
    sharding = jax.typeof(x).sharding if isinstance(x, Tracer) else getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.spec:
        return None
    batch, *others = sharding.spec
    return None if batch is None or any(axis is not None for axis in others) else sharding


def by_device(
    run: Callable[[Any, jax.Array], jax.Array], sharding: NamedSharding
) -> Callable[..., Any]:
    """Run the images of each device on it as a program of its own, which kernels need."""
    whole, batch = PartitionSpec(), PartitionSpec(sharding.spec[0])
    return jax.shard_map(
        run, mesh=sharding.mesh, in_specs=(whole, batch), out_specs=batch, check_vma=False
    )


def is_sharded(x: Any) -> bool:
    """Return whether x lies in parts on several devices, as far as can be seen."""
    if isinstance(x, Tracer):
        return any(axis is not None for axis in jax.typeof(x).sharding.spec)
    return isinstance(x, jax.Array) and not x.sharding.is_fully_replicated


def is_traced(*trees: Any) -> bool:
    """Return whether what is computed of these arrays becomes part of somebody's program."""
    if any(isinstance(leaf, Tracer) for tree in trees for leaf in jax.tree.leaves(tree)):
        return True
    return isinstance(_zero(), Tracer)  # inside jit, whatever the arrays are


def is_on_cpu(x: Any, params: Any) -> bool:
    """Return whether all of this call happens on one CPU, outside of anybody's program."""
    if is_traced(x, params) or is_sharded(x):
        return False
    return device_of(x, params).platform == "cpu"


@jax.jit
def _zero() -> jax.Array:
    return jnp.zeros(())


def device_of(*trees: Any) -> Any:
    """Return a device of this process that has the first array on one, else JAX's default."""
    for leaf in (leaf for tree in trees for leaf in jax.tree.leaves(tree)):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            for device in leaf.sharding.addressable_devices:
                return device
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return default if isinstance(default, jax.Device) else jax.local_devices(backend=default)[0]


def replicated_sharding(*trees: Any) -> Sharding | None:
    """Return a replicated sharding for where the first committed array lies, or None."""
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed:
            sharding = leaf.sharding
            if isinstance(sharding, NamedSharding):
                return NamedSharding(sharding.mesh, PartitionSpec())
            return sharding if len(sharding.device_set) == 1 else None
    return None


def place(tree: Any) -> Any:
    """Copy the NumPy arrays of a tree, and put them explicitly where its other arrays lie.

    Inside somebody's program and on a mesh of several processes the copies stay on the host.
    """
    if not any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree)):
        return tree
    where = replicated_sharding(tree)
    stay = is_traced(tree) or (where is not None and not where.is_fully_addressable)

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        return copy_native(leaf) if stay else jax.device_put(copy_native(leaf), where)

    return jax.tree.map(copy, tree)

"""Images and latents over the devices of a mesh; XLA exchanges the edges that convolutions need."""

from __future__ import annotations

from jax.sharding import Mesh, NamedSharding, PartitionSpec


def shard_images(mesh: Mesh, *, batch: str | None = None, rows: str | None = None) -> NamedSharding:
    """Return how images or latents (n, h, w, c) lie on a mesh.

    Give it to `jax.device_put`; encode and decode then run on all devices, in or outside jit, and
    return results that lie alike. The sizes of the axes must divide n and the rows of latents, of
    which each device should have a few. taef2's norm over the whole image adds up over all of them.

    Args:
        mesh: With Auto or Explicit axes.
        batch: Axis that the images of a batch are divided over.
        rows: Axis that the rows of each image are divided over.

    Raises:
        ValueError: The mesh has no such axis, neither is named, or both are one.
    """
    named = [axis for axis in (batch, rows) if axis is not None]
    if not named or set(named) - set(mesh.axis_names) or len(set(named)) < len(named):
        raise ValueError(
            f"batch and rows must name different axes of {mesh.axis_names}, got {named}"
        )
    return NamedSharding(mesh, PartitionSpec(batch, rows))


def replicate(mesh: Mesh) -> NamedSharding:
    """Return how params lie whole on every device of a mesh; give it to `jax.device_put`."""
    return NamedSharding(mesh, PartitionSpec())

"""The results of encode and decode, with diffusers' names."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

import jax

Output = TypeVar("Output", bound=tuple)


class _ByName:
    """Let a named tuple be read as diffusers' outputs are: `x.name`, `x["name"]`, `x[0]`."""

    __slots__ = ()
    _fields: tuple[str, ...]

    def __getitem__(self, key: Any) -> Any:
        """Return the value of a name, or of an index."""
        if not isinstance(key, str):
            return tuple.__getitem__(cast(tuple, self), key)
        if key not in self._fields:
            raise KeyError(f"the output has {', '.join(self._fields)}, no {key!r}")
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        """Return whether the output has a name."""
        return key in self._fields

    def keys(self) -> tuple[str, ...]:
        """Return the names."""
        return self._fields

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values as a plain tuple."""
        return tuple(cast(tuple, self))


class AutoencoderTinyOutput(_ByName, NamedTuple("_Latents", [("latents", jax.Array)])):
    """The result of `AutoencoderTiny.encode`.

    Attributes:
        latents: (n, h / 8, w / 8, z) in model space.
    """

    __slots__ = ()


class DecoderOutput(_ByName, NamedTuple("_Sample", [("sample", jax.Array)])):
    """The result of `AutoencoderTiny.decode`.

    Attributes:
        sample: Images (n, 8h, 8w, 3), about [-1, 1] and not clipped.

    >>> output = DecoderOutput(1.0)
    >>> output.sample, output["sample"], output[0], output.to_tuple()
    (1.0, 1.0, 1.0, (1.0,))
    """

    __slots__ = ()


class LatentDistribution(NamedTuple):
    """Stand in for the latent distribution of a VAE; a tiny encoder is deterministic.

    Attributes:
        mean: Latents (n, h / 8, w / 8, z), NHWC as Flax pipelines expect here.
    """

    mean: jax.Array

    def sample(self, key: jax.Array | None = None) -> jax.Array:
        """Return the latents."""
        return self.mean

    def mode(self) -> jax.Array:
        """Return the latents."""
        return self.mean


class EncoderOutput(_ByName, NamedTuple("_Distribution", [("latent_dist", LatentDistribution)])):
    """The result of `FlaxAutoencoderTiny.encode`.

    Attributes:
        latent_dist: The latents, as a distribution.
    """

    __slots__ = ()


def select_output(output: Output, return_dict: bool) -> Output:
    """Return the named tuple, or a plain one, which is typed alike to spare users overloads."""
    return output if return_dict else cast(Output, tuple(output))

"""The results of `AutoencoderTiny`'s methods, with diffusers' names."""

from __future__ import annotations

from typing import NamedTuple, TypeVar, cast

import jax

Output = TypeVar("Output", bound=tuple)


class AutoencoderTinyOutput(NamedTuple):
    """The result of `AutoencoderTiny.encode`.

    Attributes:
        latents: (n, h / 8, w / 8, z) in model space.
    """

    latents: jax.Array


class DecoderOutput(NamedTuple):
    """The result of `AutoencoderTiny.decode`.

    Attributes:
        sample: Images (n, 8h, 8w, 3), about [-1, 1] and not clipped.
    """

    sample: jax.Array


def select_output(output: Output, return_dict: bool) -> Output:
    """Return the named tuple, or a plain one, which is typed alike to spare users overloads."""
    return output if return_dict else cast(Output, tuple(output))

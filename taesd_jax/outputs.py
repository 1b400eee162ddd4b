"""Return types of `AutoencoderTiny`, with diffusers' names."""

from __future__ import annotations

from typing import NamedTuple

import jax


class AutoencoderTinyOutput(NamedTuple):
    """Hold the result of `AutoencoderTiny.encode`.

    Attributes:
        latents: (n, h / 8, w / 8, z) in model space.
    """

    latents: jax.Array


class DecoderOutput(NamedTuple):
    """Hold the result of `AutoencoderTiny.decode`.

    Attributes:
        sample: Images (n, 8h, 8w, 3), about [-1, 1] and not clipped.
    """

    sample: jax.Array

"""What `AutoencoderTiny`'s methods return, with diffusers' names."""

from __future__ import annotations

from typing import NamedTuple

import jax


class AutoencoderTinyOutput(NamedTuple):
    """What `AutoencoderTiny.encode` returns.

    Attributes:
        latents: (n, h / 8, w / 8, z) in model space.
    """

    latents: jax.Array


class DecoderOutput(NamedTuple):
    """What `AutoencoderTiny.decode` returns.

    Attributes:
        sample: Images (n, 8h, 8w, 3) of about [-1, 1].
    """

    sample: jax.Array

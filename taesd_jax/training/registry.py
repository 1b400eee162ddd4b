"""The losses that a recipe can name, one row each.

The step, the recipe's checks, the command's help and the page on training all come from this table.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Literal

from ..model.layers import COMPONENTS, Component

# What a loss compares between the student and its target. "output": what the component computes, a
# decoder's images or an encoder's latents. "images": for an encoder, those that the decoder it
# starts with makes of its latents. "features": outputs of the component's stages.
# "encoder_features": outputs of the stages of the teacher's encoder, given the images.
Compared = Literal["output", "images", "features", "encoder_features"]
Extra = Literal["key", "sensitivity", "discriminator", "latent"]


@dataclasses.dataclass(frozen=True)
class Loss:
    """A row of the table.

    Attributes:
        compares: What `function` takes, first of the student, then of its target.
        source: Where `function` is, as module.name of this package: the table needs no JAX.
        weight: Default weight, which suits a sum with `mse=1`; from the card of `small`.
        summary: What it measures, for help texts.
        extras: What else `function` takes, by name.
        min_size: Smallest side of a crop, in pixels.
        multiple: What the side of a crop must be a multiple of.
        components: Components that it can train.
    """

    compares: Compared
    source: str
    weight: float
    summary: str
    extras: tuple[Extra, ...] = ()
    min_size: int = 1
    multiple: int = 1
    components: tuple[Component, ...] = COMPONENTS

    @property
    def function(self) -> Callable[..., Any]:
        """What returns the loss."""
        module, name = self.source.split(".")
        return getattr(importlib.import_module(f".{module}", __package__), name)


LOSSES = {
    "mse": Loss("output", "losses.mse", 1.0, "squared error of images or, of an encoder, latents"),
    "amplitude": Loss("output", "losses.amplitude", 0.2, "amplitudes of their Fourier transforms"),
    "mse_eighth": Loss(
        "images", "losses.mse_eighth", 3.0, "squared error at 1/8 of the size: colours", multiple=8
    ),
    "dssim": Loss("images", "losses.dssim", 0.05, "structure: 1 - SSIM", min_size=11),
    "texture": Loss("images", "losses.texture", 10.0, "local strength of texture", min_size=9),
    "patches": Loss(
        "images", "losses.patches", 40.0, "local distribution of patches", ("key",), min_size=24
    ),
    "encoded_patches": Loss(
        "encoder_features",
        "losses.encoded_patches",
        1.6,
        "the same of the teacher's encoder features, which tell lines from noise",
        ("key",),
        min_size=24,
    ),
    "features": Loss(
        "features", "features.feature_distance", 0.1, "squared error of the teacher's features"
    ),
    "response": Loss(
        "features",
        "features.response_distance",
        0.1,
        "the same, weighted by the sensitivity of the teacher's output",
        ("sensitivity",),
    ),
    "adversarial": Loss(
        "output",
        "discriminator.adversarial",
        1.5,
        "scores of a patch discriminator trained alongside",
        ("discriminator", "latent"),
        components=("decoder",),
    ),
}

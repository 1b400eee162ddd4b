"""Random flips and changes of hue and saturation."""

from __future__ import annotations

import numpy as np

# YIQ: Rec. 601 luma, and two axes of colour.
_TO_YIQ = np.array(
    [(0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], np.float32
)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def augment(
    rng: np.random.Generator, image: np.ndarray, *, hue: float, saturation: float
) -> np.ndarray:
    """Flip an image at random and change its colours; luma is kept unless a value is clipped.

    Args:
        rng: Source of randomness.
        image: (h, w, 3) in [-1, 1].
        hue: Largest rotation of the colours, in turns; 0.5 reaches every hue.
        saturation: Saturation is multiplied by up to 1 + saturation, or its inverse.
    """
    flip, turn, strength = rng.uniform(-1, 1, 3)
    image = image[:, ::-1] if flip < 0 else image
    angle, factor = 2 * np.pi * hue * turn, (1 + saturation) ** strength
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    rotation = np.array([(1, 0, 0), (0, cos, -sin), (0, sin, cos)], np.float32)
    # [-1, 1] needs no offset: the mix maps every grey to itself.
    mix = _FROM_YIQ @ rotation @ _TO_YIQ
    return np.clip(image @ mix.T, -1, 1)

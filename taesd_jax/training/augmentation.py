"""Random flips and shifts of hue and saturation."""

from __future__ import annotations

import numpy as np

# Rec. 601 luma, and two axes of colour (YIQ).
_TO_YIQ = np.array(
    [(0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], np.float32
)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def augment(
    rng: np.random.Generator, image: np.ndarray, *, hue: float, saturation: float
) -> np.ndarray:
    """Flip an image at random, and shift its colours; their luma stays but for clipping.

    Args:
        rng: Drawn from.
        image: (h, w, 3) in [-1, 1].
        hue: Largest turn of the colours, in turns: 0.5 makes any of them any other.
        saturation: Largest change of their strength, as a factor of 1 + saturation or its inverse.
    """
    flip, turn, strength = rng.uniform(-1, 1, 3)
    image = image[:, ::-1] if flip < 0 else image
    angle, factor = 2 * np.pi * hue * turn, (1 + saturation) ** strength
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    turned = np.array([(1, 0, 0), (0, cos, -sin), (0, sin, cos)], np.float32)
    # On [-1, 1] as on [0, 1]: grey is a fixed point of the mix, so the offset passes through it.
    mix = _FROM_YIQ @ turned @ _TO_YIQ
    return np.clip(image @ mix.T, -1, 1)

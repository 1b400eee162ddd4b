"""What a training does, as one value; needs no jax."""

from __future__ import annotations

import dataclasses
from math import inf
from typing import Any

from ..model.layers import Component

LATENT_LOSSES = ("mse", "mae", "amplitude")  # of images too, where a decoder is trained
IMAGE_LOSSES = ("mse_eighth", "dssim", "detail", "texture", "patches", "encoded_patches")
FEATURE_LOSSES = ("features", "response")
DECODER_LOSSES = ("latents", "adversarial")
# Each with its rate and second moment's decay.
OPTIMIZERS = {"muon": (8e-3, 0.99), "amsgrad": (3e-4, 0.9), "adamw": (3e-4, 0.99)}
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Describe a training.

    Attributes:
        half: "encoder", taught to give the teacher's latents, or "decoder", taught to give the
            picture from them.
        losses: Weight of each loss. An encoder's: "mse", "mae", "amplitude" of latents;
            "mse_eighth", "dssim", "detail", "texture", "patches", "encoded_patches" of the images
            that the student's own decoder makes of them. A decoder's: all of these of images;
            "latents", the squared distance of latents when the teacher encodes the decoded image
            again; "adversarial", the squared distance from the image that a discriminator of
            decoded images and targets asks for (logged is the distance of its scores). Of both,
            "features": the distance from the teacher's own features, stage by stage where the
            widths are equal; "response": likewise, as far as the teacher's result depends on them.
            "encoded_patches" are seen by the teacher's encoder. These three need a model of the
            family as teacher.
        imitate: 0 for the picture as the target of images, 1 for what the teacher, a model,
            decodes, or a mean of both.
        sharpen: Amount of an unsharp mask on the target of images, 0 for none: a student too small
            for its task gives fine detail back weaker than it was asked for. See `losses.sharpen`.
        frozen: Stages nearest the latent that keep their params.
        steps: Steps in all.
        batch: Crops a step.
        side: Of a crop, in pixels.
        shrink: See `Crops`.
        hue: See `augment`.
        saturation: See `augment`.
        candidates: See `Crops`.
        crops: Number of different crops, 0 for new ones without end.
        optimizer: "muon", momentum with steps made orthogonal (Jordan et al. 2024, "Muon") for
            inner kernels and Adam for the rest, by far the fastest here; "amsgrad", Adam whose
            second moment never falls, as the published models were trained with; or "adamw".
        rate: Highest learning rate; it falls along a cosine to a hundredth. 0 for the optimizer's
            own: 8e-3 of muon, 3e-4 of amsgrad, as the published models were trained with, and of
            adamw.
        warmup: Steps until the highest rate, a quarter of all at most.
        beta2: Decay of Adam's second moment. 0 for the optimizer's own: 0.9 of amsgrad, as the
            published models were trained with, 0.99 of the others.
        ema: Decay of the average of params that is measured and kept.
        dtype: Of the computation; params, averages and losses stay float32.
        remat: Recompute blocks in the backward pass instead of storing their activations.
        buffer: Older fakes that the discriminator may be shown.
        seed: Of everything random.

    Raises:
        ValueError: A loss or optimizer is unknown, or a number is outside its range.
    """

    half: Component = "decoder"
    losses: dict[str, float] = dataclasses.field(default_factory=lambda: {"mse": 1.0})
    imitate: float = 0.0
    sharpen: float = 0.0
    frozen: int = 0
    steps: int = 10_000
    batch: int = 8
    side: int = 96
    shrink: float = 6.0
    hue: float = 0.05
    saturation: float = 0.3
    candidates: int = 1
    crops: int = 0
    optimizer: str = "muon"
    rate: float = 0.0
    warmup: int = 100
    beta2: float = 0.0
    ema: float = 0.999
    dtype: str = "float32"
    remat: bool = False
    buffer: int = 512
    seed: int = 0

    def __post_init__(self):
        if self.half not in ("encoder", "decoder"):
            raise ValueError(f"half must be 'encoder' or 'decoder', got {self.half!r}")
        allowed = (*LATENT_LOSSES, *IMAGE_LOSSES, *FEATURE_LOSSES)
        if self.half == "decoder":
            allowed += DECODER_LOSSES
        article = "an" if self.half == "encoder" else "a"
        if unknown := sorted(set(self.losses) - set(allowed)):
            raise ValueError(
                f"losses of {article} {self.half} are {', '.join(allowed)}, got "
                f"{', '.join(unknown)}"
            )
        if not self.losses or not all(0 < weight < inf for weight in self.losses.values()):
            raise ValueError(f"losses must have finite weights above 0, got {self.losses}")
        if self.optimizer not in OPTIMIZERS:
            names = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizer must be one of {names}, got {self.optimizer!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {self.dtype!r}")
        for name in [field.name for field in dataclasses.fields(self) if field.type == "int"]:
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        least = dict.fromkeys(("steps", "batch", "side", "buffer", "shrink", "candidates"), 1)
        least |= dict.fromkeys(("frozen", "crops", "rate", "warmup"), 0)
        for name, number in least.items():
            if not number <= getattr(self, name) < inf:
                raise ValueError(f"{name} must be {number} or more, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to 2**31 - 1, got {self.seed}")
        bounds = {
            "imitate": 1,
            "beta2": 0.99999,
            "ema": 0.99999,
            "hue": 1,
            "saturation": 10,
            "sharpen": 10,
        }
        for name, most in bounds.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"{name} must be from 0 to {most}, got {value}")
        for name in ("imitate", "sharpen"):
            if getattr(self, name) and not self.makes_images:
                names = ", ".join(sorted(self._of_images))
                raise ValueError(f"{name} is of images: {article} {self.half} has them by {names}")
        sides = {"patches": 24, "encoded_patches": 24, "dssim": 11, "texture": 9, "detail": 3}
        for name, side in sides.items():
            if name in self.losses and self.side < side:
                raise ValueError(f"{name} needs a side of {side} at least, got {self.side}")
        if "mse_eighth" in self.losses and self.side % 8:
            raise ValueError(f"mse_eighth needs a side that 8 divides, got {self.side}")
        if "adversarial" in self.losses and self.buffer < self.batch:
            raise ValueError(f"buffer must hold a batch of {self.batch}, got {self.buffer}")

        rate, beta2 = OPTIMIZERS[self.optimizer]
        object.__setattr__(self, "rate", self.rate or rate)
        object.__setattr__(self, "beta2", self.beta2 or beta2)

    @property
    def makes_images(self) -> bool:
        """Whether a loss is of images."""
        return not self._of_images.isdisjoint(self.losses)

    @property
    def _of_images(self) -> set[str]:
        own = (*LATENT_LOSSES, "adversarial") if self.half == "decoder" else ()
        return {*IMAGE_LOSSES, *own}

    @property
    def matches_features(self) -> bool:
        """Whether a loss is of features."""
        return not set(self.losses).isdisjoint(FEATURE_LOSSES)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return dataclasses.asdict(self)

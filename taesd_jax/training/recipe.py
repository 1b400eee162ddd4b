"""What a training learns, as one value."""

from __future__ import annotations

import dataclasses
from math import inf
from typing import Any

from ..model.layers import HALVES, Half
from .registry import LOSSES, Compared, Extra

# Peak learning rate and decay of the second moment.
OPTIMIZERS = {"muon": (8e-3, 0.99), "amsgrad": (3e-4, 0.9), "adamw": (3e-4, 0.99)}
DTYPES = ("float32", "bfloat16")
_CHOICES = {"component": HALVES, "optimizer": tuple(OPTIMIZERS), "dtype": DTYPES}
# Type, inclusive bounds (but infinity is never a value), and the fields that have them.
_RANGES = (
    (int, 0, inf, ("frozen_stages", "warmup")),
    (int, 1, inf, ("steps", "batch_size", "crop_size", "crop_candidates", "replay_size")),
    (int, 1, inf, ("num_crops",)),
    (int, 0, 2**31 - 1, ("seed",)),
    (float, 0, 1, ("teacher_blend", "hue")),
    (float, 0, 10, ("sharpen", "saturation")),
    (float, 0, 0.99999, ("beta2", "ema_decay")),
    (float, 1, inf, ("max_downscale",)),
    (float, 1e-12, inf, ("learning_rate",)),
)
_OPTIONAL = ("num_crops", "learning_rate", "beta2")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Describe what a training learns; with the images and models it decides the result.

    Attributes:
        component: "encoder", which learns the teacher's latents, or "decoder", which learns to
            reconstruct images from them.
        losses: Weight of each loss; `taesd_jax.training.registry.LOSSES` lists them. An encoder's
            losses of images compare those that the decoder it starts with makes of its latents.
            Losses of features, and of patches that an encoder sees, need a teacher of the TAESD
            family.
        teacher_blend: Share of the teacher's reconstruction in target images: 0 for the original
            image, 1 for the reconstruction. Above 0 the teacher must be of the TAESD family.
        sharpen: Amount of an unsharp mask on target images, see `losses.sharpen`. A student too
            small for its task reproduces fine detail weaker than its target.
        frozen_stages: Number of stages nearest the latent whose params stay as they are.
        steps: Number of steps.
        batch_size: Crops in a step.
        crop_size: Side of a crop, in pixels.
        max_downscale: A crop is taken from a square of its size to this many times its size.
        hue: See `augment`.
        saturation: See `augment`.
        crop_candidates: Number of random crops of which the busiest is taken: skies teach little.
        num_crops: Number of different crops, for which the teacher is asked once; None for new
            crops at each step.
        optimizer: "muon", momentum with orthogonalised steps (Jordan et al. 2024, "Muon") for
            inner kernels and Adam for the rest, by far the fastest here; "amsgrad", Adam whose
            second moment never falls, as for the published models; or "adamw".
        learning_rate: Its peak; it falls to a hundredth along a cosine. None for 8e-3 with muon,
            3e-4 with amsgrad (as for the published models) and adamw.
        warmup: Steps up to the peak, at most a quarter of all.
        beta2: Decay of Adam's second moment. None for 0.9 with amsgrad (as for the published
            models), 0.99 with the others.
        ema_decay: Decay of the average of params that is evaluated and saved.
        dtype: Of the computation; params, averages and losses stay float32.
        remat: Recompute blocks in the backward pass instead of storing their activations.
        replay_size: Number of older fakes that the discriminator may be shown.
        seed: Of everything random.

    Raises:
        ValueError: A name is unknown, a number is outside its range, or two fields do not fit.
    """

    component: Half = "decoder"
    # Mutable, so not hashed; still compared.
    losses: dict[str, float] = dataclasses.field(default_factory=lambda: {"mse": 1.0}, hash=False)
    teacher_blend: float = 0.0
    sharpen: float = 0.0
    frozen_stages: int = 0
    steps: int = 10_000
    batch_size: int = 8
    crop_size: int = 96
    max_downscale: float = 6.0
    hue: float = 0.05
    saturation: float = 0.3
    crop_candidates: int = 1
    num_crops: int | None = None
    optimizer: str = "muon"
    learning_rate: float | None = None
    warmup: int = 100
    beta2: float | None = None
    ema_decay: float = 0.999
    dtype: str = "float32"
    remat: bool = False
    replay_size: int = 512
    seed: int = 0

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for kind, low, high, names in _RANGES:
            for name in names:
                if (value := getattr(self, name)) is not None or name not in _OPTIONAL:
                    _check_number(name, value, kind, low, high)
        self._check_losses()
        for name in ("teacher_blend", "sharpen"):
            if getattr(self, name) and not self.compares_images:
                losses = ", ".join(filter(self._compares_images, LOSSES))
                raise ValueError(
                    f"{name} changes target images, but no loss compares images; add one of "
                    f"{losses}"
                )
        if self.needs("discriminator") and self.replay_size < self.batch_size:
            raise ValueError(
                f"replay_size must be at least batch_size, {self.batch_size}, got "
                f"{self.replay_size}"
            )

    def _check_losses(self) -> None:
        allowed = [name for name, row in LOSSES.items() if self.component in row.components]
        if unknown := sorted(set(self.losses) - set(allowed)):
            raise ValueError(
                f"losses for the {self.component} are {', '.join(allowed)}; got "
                f"{', '.join(unknown)}"
            )
        if not self.losses or not all(0 < weight < inf for weight in self.losses.values()):
            raise ValueError(f"losses must have finite weights above 0, got {self.losses}")
        for name in self.losses:
            row = LOSSES[name]
            if self.crop_size < row.min_size or self.crop_size % row.multiple:
                multiple = f", a multiple of {row.multiple}" if row.multiple > 1 else ""
                raise ValueError(
                    f"{name} needs a crop_size of at least {row.min_size}{multiple}, got "
                    f"{self.crop_size}"
                )

    def needs(self, *names: Compared | Extra) -> bool:
        """Return whether a loss compares or takes one of these."""
        rows = [LOSSES[loss] for loss in self.losses]
        return any(name in (row.compares, *row.extras) for row in rows for name in names)

    @property
    def compares_images(self) -> bool:
        """Whether a loss compares images."""
        return any(map(self._compares_images, self.losses))

    def _compares_images(self, loss: str) -> bool:
        compared = LOSSES[loss].compares
        return compared in ("images", "encoder_features") or (
            compared == "output" and self.component == "decoder"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return dataclasses.asdict(self)


def _check_number(name: str, value: Any, kind: type, low: float, high: float) -> None:
    is_number = isinstance(value, int if kind is int else (int, float)) and type(value) is not bool
    if not is_number or not low <= value <= high or value == inf:
        word = "whole" if kind is int else "finite"
        limits = f"of at least {low}" if high == inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be a {word} number {limits}, got {value!r}")

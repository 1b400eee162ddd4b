"""What a student learns, as one value."""

from __future__ import annotations

import dataclasses
from math import inf
from typing import Any

from ..model.layers import COMPONENTS, Component
from .registry import LOSSES, Compared, Extra

# Default peak of the learning rate and decay of the second moment; amsgrad's are those that the
# published models were trained with.
OPTIMIZERS = {"muon": (8e-3, 0.99), "amsgrad": (3e-4, 0.9)}
DTYPES = ("float32", "bfloat16")
_CHOICES = {"component": COMPONENTS, "optimizer": tuple(OPTIMIZERS), "dtype": DTYPES}


def _number(
    default: float | None, low: float, high: float, text: str, *, kind: type | None = None
) -> Any:
    """Return a field for a finite number within inclusive bounds; None only as the default."""
    metadata = {"low": low, "high": high, "help": text, "kind": kind or type(default)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Describe what a student learns; with the images and models it decides the result.

    Each number has its bounds and its meaning in its field below, and in `taesd-jax train --help`.

    Attributes:
        component: "encoder", which learns the teacher's latents, or "decoder", which learns to
            reconstruct images from them.
        losses: Weight of each loss; `taesd_jax.training.LOSSES` lists them. An encoder's
            losses of images compare those that the decoder it starts with makes of its latents.
        optimizer: "muon", momentum with orthogonalised steps (Jordan et al. 2024, "Muon") for
            inner kernels and Adam for the rest, by far the fastest here; or "amsgrad", Adam whose
            second moment never falls, as for the published models.
        dtype: What the model computes in; params, averages and losses stay float32.
        remat: Recompute blocks in the backward pass instead of storing their activations.

    Raises:
        ValueError: A name is unknown, a number is outside its bounds, or two fields do not fit.
    """

    component: Component = "decoder"
    # Mutable, so not hashed; still compared.
    losses: dict[str, float] = dataclasses.field(default_factory=lambda: {"mse": 1.0}, hash=False)
    optimizer: str = "muon"
    dtype: str = "float32"
    remat: bool = False
    teacher_blend: float = _number(0.0, 0, 1, "share of the teacher's images in target images")
    sharpen: float = _number(0.0, 0, 10, "amount of an unsharp mask on target images")
    frozen_stages: int = _number(0, 0, inf, "stages nearest the latent that keep their params")
    steps: int = _number(10_000, 1, inf, "number of steps")
    batch_size: int = _number(8, 1, inf, "crops in a step")
    crop_size: int = _number(96, 1, inf, "side of a crop in pixels")
    max_downscale: float = _number(6.0, 1, inf, "crops are shrunk by up to this factor")
    hue: float = _number(0.05, 0, 1, "largest rotation of a crop's colours, in turns")
    saturation: float = _number(0.3, 0, 10, "largest change of saturation, 1 for double or half")
    crop_candidates: int = _number(1, 1, inf, "random crops to choose the busiest from")
    num_crops: int | None = _number(
        None, 1, inf, "number of different crops, with cached results (default: no limit)", kind=int
    )
    learning_rate: float | None = _number(
        None, 1e-12, inf, "peak learning rate (default: 8e-3; amsgrad: 3e-4)", kind=float
    )
    warmup: int = _number(100, 0, inf, "steps up to the peak, at most a quarter of all")
    ema_decay: float = _number(0.999, 0, 0.99999, "decay of the average of params that is kept")
    replay_size: int = _number(
        512, 1, inf, "earlier images of the student that the discriminator sees"
    )
    seed: int = _number(0, 0, 2**31 - 1, "seed of everything random")

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for field in dataclasses.fields(self):
            if field.metadata:
                _check_number(field, getattr(self, field.name))
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


def _check_number(field: dataclasses.Field[Any], value: Any) -> None:
    if value is None and field.default is None:
        return
    low, high, kind = (field.metadata[name] for name in ("low", "high", "kind"))
    is_number = isinstance(value, int if kind is int else (int, float)) and type(value) is not bool
    if not is_number or not low <= value <= high or value == inf:
        word = "whole" if kind is int else "finite"
        limits = f"of at least {low}" if high == inf else f"from {low} to {high}"
        raise ValueError(f"{field.name} must be a {word} number {limits}, got {value!r}")

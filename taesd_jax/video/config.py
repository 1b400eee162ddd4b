"""The configuration of a tiny video autoencoder, and the published variants; needs no jax."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

MAX_CHANNELS = 4096
MAX_BLOCKS = 64
# Along each axis: far above any model of this family.
MAX_FACTOR = 16

_CHOICES = {
    "block_style": ("base", "super", "wide"),
    "act_fn": ("relu", "leaky_relu"),
    "frame_rule": ("causal", "cogvideox", "h3"),
}
_INTEGERS = {
    "latent_channels": MAX_CHANNELS,
    "patch_size": MAX_FACTOR,
    "encoder_channels": MAX_CHANNELS,
    "group_channels": MAX_CHANNELS,
    "num_blocks": MAX_BLOCKS,
}
_TUPLES = {"time_pool": MAX_FACTOR, "time_grow": MAX_FACTOR, "decoder_channels": MAX_CHANNELS}


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """Describe a tiny video autoencoder of the TAEHV family.

    Attributes:
        latent_channels: Channels of the latent.
        patch_size: Side of the squares of pixels that the network sees as one.
        time_pool: Frames that each encoder stage merges into one, full resolution first.
        time_grow: Frames that each decoder stage makes of one, latent resolution first.
        encoder_channels: Width of the encoder.
        decoder_channels: Width of each decoder stage, and of what follows the last.
        block_style: Form of the decoder's memory blocks: "base", "super" or "wide".
        group_channels: Channels of a group in the grouped convolutions of "wide" blocks.
        num_blocks: Memory blocks in each stage.
        act_fn: "relu", or "leaky_relu" with slope 0.2.
        signed_images: Whether the network itself reads and writes [-1, 1], and not [0, 1].
        frame_rule: Which decoded frames belong to the video: "causal", "cogvideox" or "h3"; see
            `taesd_jax.video.num_frames`.
        name_or_path: Source of the weights; ignored by ==.
    """

    latent_channels: int = 16
    patch_size: int = 1
    time_pool: tuple[int, ...] = (2, 2, 1)
    time_grow: tuple[int, ...] = (1, 2, 2)
    encoder_channels: int = 64
    decoder_channels: tuple[int, ...] = (256, 128, 64, 64)
    block_style: str = "base"
    group_channels: int = 64
    num_blocks: int = 3
    act_fn: str = "relu"
    signed_images: bool = False
    frame_rule: str = "causal"
    name_or_path: str = dataclasses.field(default="", compare=False)

    def __post_init__(self):
        for name, high in _INTEGERS.items():
            value = getattr(self, name)
            self._check(name, _is_integer(value, high), f"an integer from 1 to {high}")
        for name, high in _TUPLES.items():
            value = getattr(self, name)
            is_valid = isinstance(value, tuple) and all(_is_integer(v, high) for v in value)
            self._check(name, is_valid, f"a tuple of integers from 1 to {high}")
        for name, choices in _CHOICES.items():
            self._check(name, getattr(self, name) in choices, " or ".join(map(repr, choices)))
        self._check("signed_images", isinstance(self.signed_images, bool), "true or false")
        self._check("name_or_path", isinstance(self.name_or_path, str), "a string")
        stages = len(self.time_grow)
        if len(self.time_pool) != stages or len(self.decoder_channels) != stages + 1 or not stages:
            raise ValueError(
                f"time_pool and time_grow must have a number for each stage and decoder_channels "
                f"one more, got {self.time_pool}, {self.time_grow} and {self.decoder_channels}"
            )
        if math.prod(self.time_pool) != self.time_factor:
            raise ValueError(
                f"encoder and decoder must change time alike, got time_pool {self.time_pool} and "
                f"time_grow {self.time_grow}"
            )
        uneven = [n for n in self.decoder_channels[:-1] if n % self.group_channels]
        if self.block_style == "wide" and uneven:
            raise ValueError(
                f"decoder_channels of wide blocks must be multiples of group_channels, "
                f"{self.group_channels}, got {uneven}"
            )

    def _check(self, name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along a side.

        >>> VIDEO_VARIANTS["taew2_2"].spatial_factor
        16
        """
        return self.patch_size * 2 ** len(self.time_grow)

    @property
    def time_factor(self) -> int:
        """Frames per latent.

        >>> VIDEO_VARIANTS["taem1"].time_factor
        6
        """
        return math.prod(self.time_grow)

    @property
    def context_latents(self) -> int:
        """Latents before a latent that its frames depend on: the decoder remembers no others.

        Each memory block reads one frame back, at its stage's number of frames per latent.

        >>> VIDEO_VARIANTS["taew2_1"].context_latents, VIDEO_VARIANTS["taeltx_2"].context_latents
        (8, 6)
        """
        reach, frames = Fraction(0), 1
        for grow in self.time_grow:
            reach += Fraction(self.num_blocks, frames)
            frames *= grow
        return math.ceil(reach)

    def replace(self, **changes: Any) -> VideoConfig:
        """Return a copy with the given fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values, without `name_or_path`."""
        fields = dataclasses.asdict(self)
        del fields["name_or_path"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> VideoConfig:
        """Build a config from what `to_dict` returned.

        Raises:
            ValueError: A field is unknown, has the wrong type or a value outside its range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"unknown fields of a video config: {', '.join(map(repr, unknown))}")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**values)


def _is_integer(value: Any, high: int) -> bool:
    return type(value) is int and 1 <= value <= high


_PATCH_2: dict[str, Any] = {"patch_size": 2}
_SUPER: dict[str, Any] = {"block_style": "super", "decoder_channels": (512, 256, 128, 64)}
_WIDE: dict[str, Any] = {"block_style": "wide", "decoder_channels": (1024, 512, 256, 64)}
_LTX: dict[str, Any] = {
    "latent_channels": 128,
    "patch_size": 4,
    "time_pool": (2, 2, 2),
    "time_grow": (2, 2, 2),
}

# Rows that are equal have different weights and latents, but one arithmetic.
VIDEO_VARIANTS: Mapping[str, VideoConfig] = types.MappingProxyType(
    {
        "taehv": VideoConfig(),
        "taew2_1": VideoConfig(),
        "taeos1_3": VideoConfig(),
        "taecvx": VideoConfig(frame_rule="cogvideox"),
        "taew2_2": VideoConfig(latent_channels=48, **_PATCH_2),
        "taew2_2_super": VideoConfig(latent_channels=48, **_PATCH_2, **_SUPER),
        "taehv1_5": VideoConfig(latent_channels=32, **_PATCH_2),
        "taehv1_5_super": VideoConfig(latent_channels=32, **_PATCH_2, **_SUPER),
        "taeh3": VideoConfig(latent_channels=24, frame_rule="h3", **_PATCH_2),
        "taeltx_2": VideoConfig(**_LTX),
        "taeltx2_3": VideoConfig(**_LTX),
        "taeltx2_3_wide": VideoConfig(**_LTX, **_WIDE),
        "taem1": VideoConfig(latent_channels=12, time_pool=(3, 2, 1), time_grow=(1, 2, 3)),
        # LightX2V's, of the shapes of taehv1_5.
        "lighttaehy1_5": VideoConfig(
            latent_channels=32, act_fn="leaky_relu", signed_images=True, **_PATCH_2
        ),
    }
)

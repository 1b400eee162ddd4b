"""The configuration of a tiny autoencoder, and those of the published variants; needs no jax."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any

from .config_checks import MAX_NUMBER, NUMBERS, RAW_LATENT, check_fields
from .errors import warn
from .variants import PUBLISHED_FIELDS

DIFFUSERS_CLASS = "AutoencoderTiny"

_ARCHITECTURE = (
    *("in_channels", "out_channels", "latent_channels", "act_fn"),
    *("encoder_block_out_channels", "num_encoder_blocks", "encoder_stem_channels"),
    *("decoder_block_out_channels", "num_decoder_blocks", "pool_channels", "width_change"),
)
# Fields that the shapes of the tensors do not tell.
_NOT_IN_TENSORS = ("act_fn", "force_upcast", *NUMBERS)


@dataclasses.dataclass(frozen=True)
class AutoencoderTinyConfig(Mapping[str, Any]):
    """Describe a tiny autoencoder, in the fields and defaults of diffusers' `AutoencoderTiny`.

    It is read by attribute or, as diffusers' configs are, like a dict. The last six fields go
    beyond diffusers.

    Attributes:
        in_channels: Channels of the image that the encoder reads.
        out_channels: Channels of the image that the decoder writes.
        encoder_block_out_channels: Width of each encoder stage, full resolution first.
        decoder_block_out_channels: Width of each decoder stage, latent resolution first.
        act_fn: "relu", "silu", "swish", "gelu" or "mish"; the activation after a block's skip is
            always a ReLU.
        upsample_fn: Only "nearest".
        latent_channels: Channels of the latent.
        upsampling_scaling_factor: Only 2.
        num_encoder_blocks: Blocks in each encoder stage.
        num_decoder_blocks: Blocks in each decoder stage.
        latent_magnitude: 8-bit storage clips latents to +-latent_magnitude.
        latent_shift: The 8-bit value of the latent 0, divided by 255; in [0, 1].
        force_upcast: Compute in float32 whatever the input's dtype.
        scaling_factor: For pipelines; encode and decode never apply it.
        shift_factor: For pipelines; encode and decode never apply it.
        encoder_stem_channels: Widths of stride-2 convolutions, each with an activation, that
            replace the encoder's first convolution: (32, 64) in taesana.
        pool_channels: Hidden width of the GroupNorm branch in the blocks at latent resolution:
            256 in taef2, 0 for none.
        width_change: Where the width changes between stages: in the resampling "conv", as
            published, or in the first "block" after it, through a 1x1 skip.
        raw_latent_scale: model latent = (raw VAE latent - raw_latent_shift) * raw_latent_scale;
            None where unknown or different for each channel.
        raw_latent_shift: See raw_latent_scale.
        name_or_path: Source of the weights; ignored by ==.
    """

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    act_fn: str = "relu"
    upsample_fn: str = "nearest"
    latent_channels: int = 4
    upsampling_scaling_factor: int = 2
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_magnitude: float = 3.0
    latent_shift: float = 0.5
    force_upcast: bool = False
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    encoder_stem_channels: tuple[int, ...] = ()
    pool_channels: int = 0
    width_change: str = "conv"
    raw_latent_scale: float | None = None
    raw_latent_shift: float | None = None
    name_or_path: str = dataclasses.field(default="", compare=False)

    def __post_init__(self):
        check_fields(self)

    def __getitem__(self, name: str) -> Any:
        """Return a field, as `to_dict` has it, or `block_out_channels`.

        >>> config = AutoencoderTinyConfig()
        >>> config["latent_channels"], config.get("norm_num_groups"), "act_fn" in config
        (4, None, True)
        """
        if name not in _FIELDS:
            raise KeyError(f"the config has no {name!r}")
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_FIELDS)

    def __len__(self) -> int:
        return len(_FIELDS)

    @property
    def block_out_channels(self) -> tuple[int, ...]:
        """The decoder's widths, by which pipelines count its stages."""
        return self.decoder_block_out_channels

    @property
    def spatial_factor(self) -> int:
        """Image pixels per latent along a side: 8, or 32 for taesana."""
        return 2 ** (len(self.decoder_block_out_channels) - 1)

    def shares_latents(self, other: AutoencoderTinyConfig) -> bool:
        """Return whether models of both configs read each other's latents."""
        names = ("latent_channels", "spatial_factor", "raw_latent_scale", "raw_latent_shift")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @functools.cached_property
    def architecture(self) -> AutoencoderTinyConfig:
        """The config with all fields that change neither tensors nor arithmetic at their defaults.

        Variants of equal architecture share compiled programs.
        """
        return AutoencoderTinyConfig(**{name: getattr(self, name) for name in _ARCHITECTURE})

    @property
    def same_architecture(self) -> tuple[str, ...]:
        """Names of the published variants with this architecture."""
        return tuple(k for k, row in VARIANTS.items() if row.architecture == self.architecture)

    @property
    def variant(self) -> str | None:
        """Name of the published variant with this architecture and latent space, or None."""
        names = self.same_architecture
        if len(names) == 1:
            return names[0]
        for name in names:
            if all(_is_close(getattr(self, f), getattr(VARIANTS[name], f)) for f in RAW_LATENT):
                return name
        return None

    @property
    def fits_tensors(self) -> bool:
        """Whether the tensors alone tell everything but the variant."""
        default = AutoencoderTinyConfig()
        return all(getattr(self, name) == getattr(default, name) for name in _NOT_IN_TENSORS)

    @property
    def beyond_diffusers(self) -> str:
        """What of this architecture diffusers' `AutoencoderTiny` cannot express, or ""."""
        if self.encoder_stem_channels:
            return "stages before its encoder"
        if self.pool_channels:
            return "blocks with GroupNorm"
        one_width = len(set(self.encoder_block_out_channels)) == 1
        one_width &= len(set(self.decoder_block_out_channels)) == 1
        return "" if one_width else "stages of different widths"

    @property
    def fits_diffusers(self) -> bool:
        """Whether diffusers' `AutoencoderTiny` can express this architecture."""
        return not self.beyond_diffusers

    def replace(self, **changes: Any) -> AutoencoderTinyConfig:
        """Return a copy with the given fields changed.

        >>> AutoencoderTinyConfig().replace(latent_channels=16).variant is None
        True
        """
        return dataclasses.replace(self, **changes)

    def with_variant(self, name: str) -> AutoencoderTinyConfig:
        """Return a copy with the latent constants of a variant, if it has this architecture.

        >>> AutoencoderTinyConfig().with_variant("taesdxl").variant
        'taesdxl'
        >>> AutoencoderTinyConfig().with_variant("taesd3").variant is None
        True
        """
        if name not in self.same_architecture:
            return self
        return self.replace(**{field: getattr(VARIANTS[name], field) for field in RAW_LATENT})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values, without `name_or_path`."""
        fields = dataclasses.asdict(self)
        del fields["name_or_path"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AutoencoderTinyConfig:
        """Build a config from the content of a config.json, ours or diffusers'.

        Unknown names are ignored with a warning, as in diffusers. Names that begin with "_" are
        ignored silently, except the raw latent constants, which our diffusers files store so.

        Raises:
            ValueError: A field has the wrong type or a value outside its range, or the file
                configures another class.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"a config must be a JSON object, got {type(fields).__name__}")
        if (kind := fields.get("_class_name", DIFFUSERS_CLASS)) != DIFFUSERS_CLASS:
            raise ValueError(f"the config must be of class {DIFFUSERS_CLASS}, got {kind!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        # diffusers derives block_out_channels from the other widths.
        ignored = {name for name in fields if name.startswith("_")} | {"block_out_channels"}
        if unknown := sorted(fields.keys() - known - ignored):
            warn(f"config fields unknown here are ignored: {unknown}")
        values = {}
        for key, value in fields.items():
            stripped = key.removeprefix("_")
            name = stripped if stripped in RAW_LATENT else key
            if name not in known:
                continue
            if isinstance(value, list):
                value = tuple(value)
            if name in (*NUMBERS, *RAW_LATENT) and type(value) is int:
                value = float(value) if abs(value) < MAX_NUMBER else value
            values[name] = value
        return cls(**values)


_FIELDS = (*AutoencoderTinyConfig().to_dict(), "block_out_channels")


def _is_close(a: float | None, b: float | None) -> bool:
    # ComfyUI's files store these constants in float32.
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6)


VARIANTS: Mapping[str, AutoencoderTinyConfig] = types.MappingProxyType(
    {name: AutoencoderTinyConfig(**fields) for name, fields in PUBLISHED_FIELDS.items()}
)

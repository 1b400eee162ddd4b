"""The configuration of a tiny autoencoder and the published variants; needs no jax."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import warnings
from collections.abc import Mapping
from typing import Any

ACTIVATIONS = ("relu", "silu", "swish", "gelu", "mish")
DIFFUSERS_CLASS = "AutoencoderTiny"

_NOT_IN_TENSORS = (
    *("act_fn", "latent_magnitude", "latent_shift", "force_upcast"),
    *("scaling_factor", "shift_factor"),
)
# In diffusers' files, which have no such fields.
_PRIVATE = ("_raw_latent_scale", "_raw_latent_shift")
_ARCHITECTURE = (
    *("in_channels", "out_channels", "latent_channels", "act_fn"),
    *("encoder_block_out_channels", "num_encoder_blocks", "encoder_stem_channels"),
    *("decoder_block_out_channels", "num_decoder_blocks", "pool_channels", "width_change"),
)

# Bounds that no model of this family comes near; they keep a hostile config.json from asking for
# a model that does not fit in memory.
_MAX_CHANNELS = 4096
_MAX_STAGES = 10
_MAX_BLOCKS = 64


@dataclasses.dataclass(frozen=True)
class AutoencoderTinyConfig:
    """Describe a tiny autoencoder, in the fields and defaults of diffusers' `AutoencoderTiny`.

    The last six fields go beyond diffusers.

    Attributes:
        in_channels: Channels of the image that the encoder reads.
        out_channels: Channels of the image that the decoder writes.
        encoder_block_out_channels: Width of each encoder stage, full resolution first.
        decoder_block_out_channels: Width of each decoder stage, latent resolution first.
        act_fn: One of `ACTIVATIONS`; the ReLU behind a block's skip stays a ReLU.
        upsample_fn: Only "nearest".
        latent_channels: Channels of the latent.
        upsampling_scaling_factor: Only 2.
        num_encoder_blocks: Blocks in each encoder stage.
        num_decoder_blocks: Blocks in each decoder stage.
        latent_magnitude: Half the range of latents that 8-bit storage keeps.
        latent_shift: Where 8-bit storage puts the latent 0, in [0, 1].
        force_upcast: Compute in float32 whatever the input's dtype.
        scaling_factor: Read by pipelines; encode and decode never apply it.
        shift_factor: Read by pipelines; encode and decode never apply it.
        encoder_stem_channels: Widths of the stride-2 convolutions, each with an activation, that
            open the encoder in place of its first convolution: (32, 64) in taesana.
        pool_channels: Hidden width of the GroupNorm branch in the blocks at latent resolution:
            256 in taef2, 0 for none.
        width_change: Where the width changes between stages: in the resampling "conv", as
            published, or in the first "block" behind it, through a 1x1 skip.
        raw_latent_scale: model latent = (raw VAE latent - raw_latent_shift) * raw_latent_scale;
            None where unknown or not one number.
        raw_latent_shift: See raw_latent_scale.
        name_or_path: Where the weights came from; takes no part in equality.
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
        for field in dataclasses.fields(self):
            _check_field(field.name, str(field.type), getattr(self, field.name))
        for component in ("encoder", "decoder"):
            widths = getattr(self, f"{component}_block_out_channels")
            blocks = getattr(self, f"num_{component}_blocks")
            if len(widths) != len(blocks) or not 1 <= len(widths) <= _MAX_STAGES:
                raise ValueError(
                    f"{component}_block_out_channels and num_{component}_blocks must name the same "
                    f"1 to {_MAX_STAGES} stages, got {widths} and {blocks}"
                )
        _check_choice("act_fn", self.act_fn, ACTIVATIONS)
        _check_choice("upsample_fn", self.upsample_fn, ("nearest",))
        _check_choice("upsampling_scaling_factor", self.upsampling_scaling_factor, (2,))
        _check_choice("width_change", self.width_change, ("conv", "block"))
        stem = self.encoder_stem_channels
        if stem and stem[-1] != self.encoder_block_out_channels[0]:
            raise ValueError(
                f"encoder_stem_channels must end with the width of the first encoder stage, "
                f"{self.encoder_block_out_channels[0]}, got {stem}"
            )
        if self.pool_channels % 4:
            raise ValueError(f"pool_channels must be a multiple of 4, got {self.pool_channels}")
        shrink = 2 ** (len(self.encoder_block_out_channels) - 1 + len(stem))
        if shrink != self.spatial_factor:
            raise ValueError(
                f"encoder and decoder must change the size alike, but this encoder divides it by "
                f"{shrink} and this decoder multiplies it by {self.spatial_factor}; give both the "
                f"same number of stages"
            )

    @property
    def spatial_factor(self) -> int:
        """Image pixels to a latent along one side: 8, or 32 for taesana."""
        return 2 ** (len(self.decoder_block_out_channels) - 1)

    def shares_latents(self, other: AutoencoderTinyConfig) -> bool:
        """Return whether models of both configs have the same latents, in number and scale."""
        names = ("latent_channels", "spatial_factor", "raw_latent_scale", "raw_latent_shift")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @functools.cached_property
    def architecture(self) -> AutoencoderTinyConfig:
        """The fields that decide tensors and arithmetic; the others at their defaults.

        Variants with one architecture share one compiled program.
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
            row = VARIANTS[name]
            if _close(self.raw_latent_scale, row.raw_latent_scale) and _close(
                self.raw_latent_shift, row.raw_latent_shift
            ):
                return name
        return None

    @property
    def fits_tensors(self) -> bool:
        """Whether a file of tensors alone, without a config, says everything but labels."""
        default = AutoencoderTinyConfig()
        return all(getattr(self, name) == getattr(default, name) for name in _NOT_IN_TENSORS)

    @property
    def fits_diffusers(self) -> bool:
        """Whether diffusers' `AutoencoderTiny` can express this architecture."""
        return (
            not self.encoder_stem_channels
            and not self.pool_channels
            and len(set(self.encoder_block_out_channels)) == 1
            and len(set(self.decoder_block_out_channels)) == 1
        )

    def replace(self, **changes: Any) -> AutoencoderTinyConfig:
        """Return a copy with the given fields changed.

        >>> AutoencoderTinyConfig().replace(latent_channels=16).variant is None
        True
        """
        return dataclasses.replace(self, **changes)

    def labelled(self, name: str) -> AutoencoderTinyConfig:
        """Return a copy labelled as variant `name` where the architecture is that variant's.

        >>> AutoencoderTinyConfig().labelled("taesdxl").variant
        'taesdxl'
        >>> AutoencoderTinyConfig().labelled("taesd3").variant is None
        True
        """
        if name not in self.same_architecture:
            return self
        row = VARIANTS[name]
        return self.replace(
            raw_latent_scale=row.raw_latent_scale, raw_latent_shift=row.raw_latent_shift
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values, without `name_or_path`."""
        fields = dataclasses.asdict(self)
        del fields["name_or_path"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AutoencoderTinyConfig:
        """Build a config from a config.json's content, ours or diffusers'.

        Names that begin with "_", but for the raw latent constants that we write so for diffusers,
        and diffusers' derived `block_out_channels` are skipped; other unknown names are skipped
        with a warning, as diffusers does.

        Raises:
            ValueError: A field has the wrong type or a value outside its range, or the file
                configures another class.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"a config must be a JSON object, got {type(fields).__name__}")
        if (kind := fields.get("_class_name", DIFFUSERS_CLASS)) != DIFFUSERS_CLASS:
            raise ValueError(f"the config must be of class {DIFFUSERS_CLASS}, got {kind!r}")
        known = {f.name: str(f.type) for f in dataclasses.fields(cls)}
        skipped = {name for name in fields if name.startswith("_")} | {"block_out_channels"}
        unknown = sorted(fields.keys() - known.keys() - skipped)
        if unknown:
            warnings.warn(f"config fields unknown here are ignored: {unknown}", stacklevel=2)
        values = {}
        for name, value in fields.items():
            name = name.removeprefix("_") if name in _PRIVATE else name
            if name not in known:
                continue
            if "tuple" in known[name] and isinstance(value, list):
                value = tuple(value)
            if "float" in known[name] and type(value) is int and abs(value) < 1e6:
                value = float(value)
            values[name] = value
        return cls(**values)


def _close(a: float | None, b: float | None) -> bool:
    # A file holds these constants in float32.
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6)


def _check_field(name: str, kind: str, value: Any) -> None:
    def fail(expected: str):
        raise ValueError(f"{name} must be {expected}, got {value!r}")

    limit = _MAX_BLOCKS if name.startswith("num_") else _MAX_CHANNELS
    low = 0 if name.startswith("num_") or name == "pool_channels" else 1
    if kind.startswith("tuple"):
        if not isinstance(value, tuple) or not all(
            type(v) is int and low <= v <= limit for v in value
        ):
            fail(f"a tuple of integers from {low} to {limit}")
    elif kind == "int":
        if type(value) is not int or not low <= value <= limit:
            fail(f"an integer from {low} to {limit}")
    elif kind == "bool":
        if type(value) is not bool:
            fail("true or false")
    elif kind == "str":
        if not isinstance(value, str):
            fail("a string")
    elif value is None:
        if "None" not in kind:
            fail("a number")
    elif type(value) not in (int, float) or not abs(value) < 1e6:
        fail("a finite number")
    elif name in ("latent_magnitude", "raw_latent_scale") and value <= 0:
        fail("a number above 0")
    elif name == "latent_shift" and not 0 <= value <= 1:
        fail("a number from 0 to 1")


def _check_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        allowed = " or ".join(repr(c) for c in choices)
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


# Raw latent constants: the scaling_factor and shift_factor of each diffusion model's own VAE.
# FLUX.2 normalises by channel (a BatchNorm), which no single number expresses.
VARIANTS: Mapping[str, AutoencoderTinyConfig] = types.MappingProxyType(
    {
        "taesd": AutoencoderTinyConfig(raw_latent_scale=0.18215, raw_latent_shift=0.0),
        "taesdxl": AutoencoderTinyConfig(raw_latent_scale=0.13025, raw_latent_shift=0.0),
        "taesd3": AutoencoderTinyConfig(
            latent_channels=16, raw_latent_scale=1.5305, raw_latent_shift=0.0609
        ),
        "taef1": AutoencoderTinyConfig(
            latent_channels=16, raw_latent_scale=0.3611, raw_latent_shift=0.1159
        ),
        "taef2": AutoencoderTinyConfig(latent_channels=32, pool_channels=256),
        "taesana": AutoencoderTinyConfig(
            latent_channels=32,
            encoder_stem_channels=(32, 64),
            decoder_block_out_channels=(256, 128, 64, 64, 64, 64),
            num_decoder_blocks=(3, 3, 3, 3, 3, 1),
            raw_latent_scale=0.41407,
            raw_latent_shift=0.0,
        ),
    }
)

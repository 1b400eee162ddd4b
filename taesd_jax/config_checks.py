"""Checks of the fields of a config; needs no jax."""

from __future__ import annotations

from typing import Any

RAW_LATENT = ("raw_latent_scale", "raw_latent_shift")
NUMBERS = ("latent_magnitude", "latent_shift", "scaling_factor", "shift_factor")
# Far above any model of this family: a hostile config.json must not describe a model that does not
# fit in memory.
MAX_CHANNELS = 4096
MAX_STAGES = 10
MAX_BLOCKS = 64
MAX_NUMBER = 1e6

_WIDTHS = ("encoder_block_out_channels", "decoder_block_out_channels", "encoder_stem_channels")
_BLOCKS = ("num_encoder_blocks", "num_decoder_blocks")
_CHOICES = {
    "act_fn": ("relu", "silu", "swish", "gelu", "mish"),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
    "width_change": ("conv", "block"),
}


def check_fields(config: Any) -> None:
    """Raise ValueError unless an `AutoencoderTinyConfig` has valid fields that fit together."""
    for name in ("in_channels", "out_channels", "latent_channels"):
        _check_integer(name, getattr(config, name), 1, MAX_CHANNELS)
    _check_integer("pool_channels", config.pool_channels, 0, MAX_CHANNELS)
    for name in _WIDTHS:
        _check_integers(name, getattr(config, name), 1, MAX_CHANNELS)
    for name in _BLOCKS:
        _check_integers(name, getattr(config, name), 0, MAX_BLOCKS)
    for name in NUMBERS:
        _check_number(name, getattr(config, name))
    for name in RAW_LATENT:
        if getattr(config, name) is not None:
            _check_number(name, getattr(config, name))
    for name, choices in _CHOICES.items():
        _check_choice(name, getattr(config, name), choices)
    is_bool = type(config.force_upcast) is bool
    _check("force_upcast", config.force_upcast, is_bool, "true or false")
    _check("name_or_path", config.name_or_path, isinstance(config.name_or_path, str), "a string")
    _check_architecture(config)


def _check_architecture(config: Any) -> None:
    for component in ("encoder", "decoder"):
        widths = getattr(config, f"{component}_block_out_channels")
        blocks = getattr(config, f"num_{component}_blocks")
        if len(widths) != len(blocks) or not 1 <= len(widths) <= MAX_STAGES:
            raise ValueError(
                f"{component}_block_out_channels and num_{component}_blocks must name the same "
                f"1 to {MAX_STAGES} stages, got {widths} and {blocks}"
            )
    stem = config.encoder_stem_channels
    if stem and stem[-1] != config.encoder_block_out_channels[0]:
        raise ValueError(
            f"encoder_stem_channels must end with the width of the first encoder stage, "
            f"{config.encoder_block_out_channels[0]}, got {stem}"
        )
    if config.pool_channels % 4:
        raise ValueError(f"pool_channels must be a multiple of 4, got {config.pool_channels}")
    factor = 2 ** (len(config.encoder_block_out_channels) - 1 + len(stem))
    if factor != config.spatial_factor:
        raise ValueError(
            f"encoder and decoder must change the size alike, but this encoder divides it by "
            f"{factor} and this decoder multiplies it by {config.spatial_factor}; give both the "
            f"same number of stages"
        )


def _check(name: str, value: Any, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _check_integer(name: str, value: Any, low: int, high: int) -> None:
    is_valid = type(value) is int and low <= value <= high
    _check(name, value, is_valid, f"an integer from {low} to {high}")


def _check_integers(name: str, value: Any, low: int, high: int) -> None:
    is_valid = isinstance(value, tuple) and all(type(v) is int and low <= v <= high for v in value)
    _check(name, value, is_valid, f"a tuple of integers from {low} to {high}")


def _check_number(name: str, value: Any) -> None:
    is_finite = type(value) in (int, float) and abs(value) < MAX_NUMBER
    _check(name, value, is_finite, "a finite number")
    if name in ("latent_magnitude", "raw_latent_scale"):
        _check(name, value, value > 0, "a number above 0")
    if name == "latent_shift":
        _check(name, value, 0 <= value <= 1, "a number from 0 to 1")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    is_valid = any(type(value) is type(choice) and value == choice for choice in choices)
    _check(name, value, is_valid, " or ".join(map(repr, choices)))

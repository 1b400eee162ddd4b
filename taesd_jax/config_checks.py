"""Checks of the fields of a config; needs no jax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

RAW_LATENT = ("raw_latent_scale", "raw_latent_shift")
NUMBERS = ("latent_magnitude", "latent_shift", "scaling_factor", "shift_factor")
# Far above any model of this family: a hostile config.json must not describe a model that does not
# fit in memory.
MAX_CHANNELS = 4096
MAX_STAGES = 10
MAX_BLOCKS = 64
MAX_NUMBER = 1e6

# What a field must be, in words, and whether a value is that.
Rule = tuple[str, Callable[[Any], bool]]


def _integer(low: int, high: int) -> Rule:
    return f"an integer from {low} to {high}", lambda v: type(v) is int and low <= v <= high


def _integers(low: int, high: int) -> Rule:
    _, is_valid = _integer(low, high)
    expected = f"a tuple of integers from {low} to {high}"
    return expected, lambda v: isinstance(v, tuple) and all(map(is_valid, v))


def _number(expected: str, is_valid: Callable[[Any], bool] = lambda v: True) -> Rule:
    return expected, lambda v: type(v) in (int, float) and abs(v) < MAX_NUMBER and is_valid(v)


def _optional(rule: Rule) -> Rule:
    return rule[0], lambda v: v is None or rule[1](v)


def _choice(*choices: Any) -> Rule:
    # 2.0 and True equal integers.
    return " or ".join(map(repr, choices)), lambda v: type(v) is type(choices[0]) and v in choices


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels"), _integer(1, MAX_CHANNELS)),
    "pool_channels": _integer(0, MAX_CHANNELS),
    "encoder_block_out_channels": _integers(1, MAX_CHANNELS),
    "decoder_block_out_channels": _integers(1, MAX_CHANNELS),
    "encoder_stem_channels": _integers(1, MAX_CHANNELS),
    "num_encoder_blocks": _integers(0, MAX_BLOCKS),
    "num_decoder_blocks": _integers(0, MAX_BLOCKS),
    "latent_magnitude": _number("a number above 0", lambda v: v > 0),
    "latent_shift": _number("a number from 0 to 1", lambda v: 0 <= v <= 1),
    "scaling_factor": _number("a finite number"),
    "shift_factor": _number("a finite number"),
    "raw_latent_scale": _optional(_number("a number above 0", lambda v: v > 0)),
    "raw_latent_shift": _optional(_number("a finite number")),
    "act_fn": _choice("relu", "silu", "swish", "gelu", "mish"),
    "upsample_fn": _choice("nearest"),
    "upsampling_scaling_factor": _choice(2),
    "width_change": _choice("conv", "block"),
    "force_upcast": ("true or false", lambda v: type(v) is bool),
    "name_or_path": ("a string", lambda v: isinstance(v, str)),
}


def check_fields(config: Any) -> None:
    """Raise ValueError unless an `AutoencoderTinyConfig` has valid fields that fit together."""
    for name, (expected, is_valid) in _RULES.items():
        if not is_valid(value := getattr(config, name)):
            raise ValueError(f"{name} must be {expected}, got {value!r}")
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

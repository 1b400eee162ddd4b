"""The published variants: the fields in which each differs from the default config."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

# The raw latent constants are the scaling_factor and shift_factor of each diffusion model's full
# VAE. FLUX.2 normalises each channel by a BatchNorm, which two numbers cannot express.
PUBLISHED_FIELDS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
    {
        "taesd": {"raw_latent_scale": 0.18215, "raw_latent_shift": 0.0},
        "taesdxl": {"raw_latent_scale": 0.13025, "raw_latent_shift": 0.0},
        "taesd3": {"latent_channels": 16, "raw_latent_scale": 1.5305, "raw_latent_shift": 0.0609},
        "taef1": {"latent_channels": 16, "raw_latent_scale": 0.3611, "raw_latent_shift": 0.1159},
        "taef2": {"latent_channels": 32, "pool_channels": 256},
        "taesana": {
            "latent_channels": 32,
            "encoder_stem_channels": (32, 64),
            "decoder_block_out_channels": (256, 128, 64, 64, 64, 64),
            "num_decoder_blocks": (3, 3, 3, 3, 3, 1),
            "raw_latent_scale": 0.41407,
            "raw_latent_shift": 0.0,
        },
    }
)

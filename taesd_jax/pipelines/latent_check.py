"""Whether a pipeline's latents are those of a tiny autoencoder."""

from __future__ import annotations

import math

from ..config import VARIANTS, AutoencoderTinyConfig

# Configs of full VAEs round their scale: 0.3611, 0.13025.
_TOLERANCE = 1e-3


def check_latents(
    config: AutoencoderTinyConfig, *, channels: int, spatial_factor: int = 8, scale: float | None
) -> None:
    """Raise ValueError, with the models that fit, unless latents are those of `config`.

    Args:
        config: Config of the tiny autoencoder.
        channels: Channels of the pipeline's latents.
        spatial_factor: Image pixels per latent along a side.
        scale: By which the pipeline multiplies its VAE's latents; None where that is not known.
    """

    def fits(ours: AutoencoderTinyConfig) -> bool:
        if (channels, spatial_factor) != (ours.latent_channels, ours.spatial_factor):
            return False
        raw = ours.raw_latent_scale
        return raw is None or scale is None or math.isclose(raw, scale, rel_tol=_TOLERANCE)

    if not fits(config):
        fitting = [name for name, variant in VARIANTS.items() if fits(variant)]
        raise ValueError(
            f"the pipeline's latents have {channels} channels, 1/{spatial_factor} of the size and "
            f"scale {scale}; {config.variant or 'this model'} has {config.latent_channels}, "
            f"1/{config.spatial_factor} and {config.raw_latent_scale}; use "
            f"{' or '.join(fitting) or 'a model made for it'}"
        )

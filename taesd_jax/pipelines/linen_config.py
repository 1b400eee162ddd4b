"""The config that Flax pipelines read of a tiny autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import DIFFUSERS_CLASS, AutoencoderTinyConfig
from ..model.layers import COMPONENTS, Component


class LinenConfig(dict):
    """Hold a config that pipelines read by attribute or by item; it goes through JSON."""

    @classmethod
    def of(cls, config: AutoencoderTinyConfig, components: Sequence[Component]) -> LinenConfig:
        """Return the config of a model with these components, of which there are params.

        Raises:
            ValueError: There is no such component.
        """
        if not components or not set(components) <= set(COMPONENTS):
            raise ValueError(f"components must be of {COMPONENTS}, got {tuple(components)}")
        return cls(
            config.to_dict(),
            _class_name=DIFFUSERS_CLASS,
            _components=[name for name in COMPONENTS if name in components],
            # The model has no other scale, whatever a file's config says.
            scaling_factor=1.0,
            shift_factor=0.0,
            # Pipelines compute the spatial factor as 2 ** (len(block_out_channels) - 1).
            block_out_channels=list(config.decoder_block_out_channels[::-1]),
            sample_size=64 * config.spatial_factor,
        )

    @staticmethod
    def read(fields: Mapping[str, Any]) -> tuple[AutoencoderTinyConfig, tuple[Component, ...]]:
        """Return the architecture and components of such a config, or of diffusers' config.json.

        Raises:
            ValueError: It is the config of another class, or a bad one.
        """
        known = {name: value for name, value in fields.items() if name != "sample_size"}
        components = tuple(known.pop("_components", COMPONENTS))
        return AutoencoderTinyConfig.from_dict(known), components

    def __getattr__(self, name: str) -> Any:
        """Return an item."""
        if name in self:
            return self[name]
        raise AttributeError(f"the config has no {name!r}")

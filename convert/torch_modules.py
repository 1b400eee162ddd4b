"""The family as PyTorch modules, built from the same layer list; NCHW, images in [-1, 1].

Indices and names are the published ones, so a component's `state_dict()` is an original file.
"""

from __future__ import annotations

import torch
from torch import nn

from taesd_jax.config import AutoencoderTinyConfig
from taesd_jax.model.layers import POOL_EPSILON, POOL_GROUPS, Component, Layer, Params, build_layers

from .state_dicts import to_torch


class ToSigned(nn.Module):
    """Map [0, 1] to [-1, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image."""
        return x * 2 - 1


_ACTIVATIONS = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "to_signed": ToSigned,
}


class Clamp(nn.Module):
    """tanh(x / 3) * 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a latent into (-3, 3)."""
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three convolutions and a skip, with taef2's GroupNorm branch where the layer has one."""

    def __init__(self, layer: Layer, act_fn: str):
        super().__init__()
        n_in, n_out, hidden = layer.in_channels, layer.out_channels, layer.pool_channels
        act = _ACTIVATIONS[act_fn]
        self.conv = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1),
            act(),
            nn.Conv2d(n_out, n_out, 3, padding=1),
            act(),
            nn.Conv2d(n_out, n_out, 3, padding=1),
        )
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1, bias=False)
        self.pool = None
        if hidden:
            self.pool = nn.Sequential(
                nn.Conv2d(n_in, hidden, 1, bias=False),
                nn.GroupNorm(POOL_GROUPS, hidden, eps=POOL_EPSILON),
                nn.ReLU(),
                nn.Conv2d(hidden, n_in, 1, bias=False),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, in, h, w) to (n, out, h, w)."""
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + self.skip(x))


def _sequence(component: Component, config: AutoencoderTinyConfig) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for layer in build_layers(component, config):
        n_in, n_out = layer.in_channels, layer.out_channels
        if layer.kind == "clamp":
            modules.append(Clamp())
        elif layer.kind == "block":
            modules.append(Block(layer, config.act_fn))
        else:
            if layer.kind == "upsample_conv":
                modules.append(nn.Upsample(scale_factor=2))
            conv = nn.Conv2d(n_in, n_out, 3, layer.stride, padding=1, bias=layer.bias)
            modules.append(conv)
        if layer.activation:
            modules.append(_ACTIVATIONS[layer.activation]())
    return modules


class TorchEncoder(nn.Sequential):
    """Encode images (n, 3, h, w) in [-1, 1] into latents."""

    def __init__(self, config: AutoencoderTinyConfig):
        super().__init__(*_sequence("encoder", config))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map images to latents."""
        return super().forward((input + 1) / 2)


class TorchDecoder(nn.Sequential):
    """Decode latents (n, z, h, w) into images of about [-1, 1]."""

    def __init__(self, config: AutoencoderTinyConfig):
        super().__init__(*_sequence("decoder", config))


class TorchAutoencoderTiny(nn.Module):
    """The components in `params`, with their weights and dtype.

    Args:
        params: {"encoder": ..., "decoder": ...}; either component may be absent.
        config: Architecture.
    """

    def __init__(self, params: Params, config: AutoencoderTinyConfig):
        super().__init__()
        self.config = config
        self.encoder = TorchEncoder(config) if "encoder" in params else None
        self.decoder = TorchDecoder(config) if "decoder" in params else None
        self.load_state_dict(to_torch(params, config, format="module"), assign=True)

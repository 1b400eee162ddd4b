"""A plain PyTorch implementation of the TAEHV family, to hold ours against.

It shares no code with the library, not even its table of variants. Videos are (n, t, c, height,
width) in the network's own range. Time is folded into the batch, as the original does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

# name: latent channels, patch, pool, grow, style
_POOL, _GROW, _LTX = (2, 2, 1), (1, 2, 2), (2, 2, 2)
TABLE = {
    "taehv": (16, 1, _POOL, _GROW, "base"),
    "taew2_1": (16, 1, _POOL, _GROW, "base"),
    "taeos1_3": (16, 1, _POOL, _GROW, "base"),
    "taecvx": (16, 1, _POOL, _GROW, "base"),
    "taew2_2": (48, 2, _POOL, _GROW, "base"),
    "taew2_2_super": (48, 2, _POOL, _GROW, "super"),
    "taehv1_5": (32, 2, _POOL, _GROW, "base"),
    "taehv1_5_super": (32, 2, _POOL, _GROW, "super"),
    "taeh3": (24, 2, _POOL, _GROW, "base"),
    "taeltx_2": (128, 4, _LTX, _LTX, "base"),
    "taeltx2_3": (128, 4, _LTX, _LTX, "base"),
    "taeltx2_3_wide": (128, 4, _LTX, _LTX, "wide"),
    "taem1": (12, 1, (3, 2, 1), (1, 2, 3), "base"),
    "lighttaehy1_5": (32, 2, _POOL, _GROW, "base"),
}
_WIDTHS = {
    "base": (256, 128, 64, 64),
    "super": (512, 256, 128, 64),
    "wide": (1024, 512, 256, 64),
}
# H3 encodes clips of so many frames, behind three black ones, into five latents.
_H3_CLIP, _H3_LATENTS = 17, 5


class _Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(x / 3)


class _Block(nn.Module):
    """Reads its input of the frame before as well."""

    def __init__(self, n: int, style: str, act: nn.Module):
        super().__init__()
        layers = {"base": _base, "super": _super, "wide": _wide}[style](n, act)
        self.conv = nn.Sequential(*layers)
        self.last = nn.Identity() if style == "super" else act

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(torch.cat([x, past], 1)) + x)


def _base(n: int, act: nn.Module) -> list[nn.Module]:
    first, *others = (nn.Conv2d(width, n, 3, padding=1) for width in (2 * n, n, n))
    return [first, act, others[0], act, others[1]]


def _super(n: int, act: nn.Module) -> list[nn.Module]:
    depthwise = nn.Conv2d(2 * n, 2 * n, 7, padding=3, groups=2 * n, bias=False)
    return [depthwise, nn.Conv2d(2 * n, 4 * n, 1), act, nn.Conv2d(4 * n, n, 1, bias=False)]


def _wide(n: int, act: nn.Module) -> list[nn.Module]:
    grouped = [nn.Conv2d(n, n, 3, padding=1, groups=n // 64) for _ in range(2)]
    return [nn.Conv2d(2 * n, n, 1), act, grouped[0], act, nn.Conv2d(n, n, 1), act, grouped[1]]


class _Pool(nn.Module):
    def __init__(self, n: int, frames: int):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(n * frames, n, 1, bias=False)


class _Grow(nn.Module):
    def __init__(self, n: int, frames: int):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(n, n * frames, 1, bias=False)


class TorchVideo(nn.Module):
    """A row of the table with random weights, under the published names.

    Args:
        name: Of `TABLE`.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        latent_channels, self.patch, pools, grows, style = TABLE[name]
        self.factor = math.prod(grows)
        act = nn.LeakyReLU(0.2) if name.startswith("light") else nn.ReLU()
        pixels = 3 * self.patch**2
        self.encoder = nn.Sequential(*_encoder(pixels, latent_channels, pools, act))
        self.decoder = nn.Sequential(*_decoder(pixels, latent_channels, grows, style, act))

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Encode (n, t, 3, height, width), padded by the last frame."""
        n, t = video.shape[:2]
        is_h3 = self.name == "taeh3"
        multiple = _H3_CLIP if is_h3 else self.factor
        video = torch.cat([video, video[:, -1:].expand(-1, -t % multiple, -1, -1, -1)], 1)
        if is_h3:
            clips = video.reshape(-1, multiple, *video.shape[2:])
            video = torch.cat([torch.zeros_like(clips[:, :3]), clips], 1)
        latents = _run(self.encoder, F.pixel_unshuffle(video, self.patch), {})
        latents = latents.reshape(n, -1, *latents.shape[2:])
        return latents[:, :-3] if is_h3 else latents

    def decode(self, latents: torch.Tensor, chunk: int | None = None) -> torch.Tensor:
        """Decode (n, t, c, h, w), `chunk` latents at a time, to the frames of the video."""
        t, memory = latents.shape[1], {}
        parts = [_run(self.decoder, part, memory) for part in latents.split(chunk or t, 1)]
        frames = F.pixel_shuffle(torch.cat(parts, 1), self.patch)
        if self.name == "taeh3":
            period = _H3_LATENTS * self.factor
            wanted = [i for i in range(frames.shape[1]) if i % period >= self.factor - 1]
            return frames[:, wanted]
        return frames if self.name == "taecvx" and t % 2 == 0 else frames[:, self.factor - 1 :]


def _encoder(pixels: int, latents: int, pools: tuple, act: nn.Module) -> Iterator[nn.Module]:
    yield from (nn.Conv2d(pixels, 64, 3, padding=1), act)
    for pool in pools:
        yield _Pool(64, pool)
        yield nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        yield from (_Block(64, "base", act) for _ in range(3))
    yield nn.Conv2d(64, latents, 3, padding=1)


def _decoder(
    pixels: int, latents: int, grows: tuple, style: str, act: nn.Module
) -> Iterator[nn.Module]:
    widths, is_super = _WIDTHS[style], style == "super"
    if is_super:
        yield nn.Conv2d(latents, widths[0], 1, bias=False)
    else:
        yield from (_Clamp(), nn.Conv2d(latents, widths[0], 3, padding=1), act)
    for width, following, grow in zip(widths, widths[1:], grows, strict=False):
        yield from (_Block(width, style, act) for _ in range(3))
        if is_super:
            yield from (nn.Conv2d(width, 4 * following, 3, padding=1), act, nn.PixelShuffle(2))
            yield _Grow(following, grow)
        else:
            yield from (nn.Upsample(scale_factor=2), _Grow(width, grow))
            yield nn.Conv2d(width, following, 3, padding=1, bias=False)
    if not is_super:
        yield act
    yield nn.Conv2d(widths[-1], pixels, 3, padding=1)


def _run(
    layers: nn.Sequential, frames: torch.Tensor, memory: dict[int, torch.Tensor]
) -> torch.Tensor:
    """Run frames (n, t, c, h, w) through layers; `memory` keeps the last input of each block."""
    n = frames.shape[0]
    x = frames.flatten(0, 1)
    for i, layer in enumerate(layers):
        if isinstance(layer, _Block):
            now = x.unflatten(0, (n, -1))
            before = memory.get(i, torch.zeros_like(now[:, :1]))
            memory[i] = now[:, -1:]
            x = layer(x, torch.cat([before, now[:, :-1]], 1).flatten(0, 1))
        elif isinstance(layer, _Pool):
            x = layer.conv(x.unflatten(0, (-1, layer.frames)).flatten(1, 2))
        elif isinstance(layer, _Grow):
            x = layer.conv(x).unflatten(1, (layer.frames, -1)).flatten(0, 1)
        else:
            x = layer(x)
    return x.unflatten(0, (n, -1))

"""A plain PyTorch implementation of the video family, to hold ours against.

It shares no code with the package. Videos are (n, t, c, height, width), in the network's own range.
A model is an encoder and a decoder, each a `Sequential` with the published names.
"""

import torch
import torch.nn.functional as F
from torch import nn

# name: latent channels, patch, pool, grow, style
TABLE = {
    "taehv": (16, 1, (2, 2, 1), (1, 2, 2), "base"),
    "taew2_1": (16, 1, (2, 2, 1), (1, 2, 2), "base"),
    "taeos1_3": (16, 1, (2, 2, 1), (1, 2, 2), "base"),
    "taecvx": (16, 1, (2, 2, 1), (1, 2, 2), "base"),
    "taew2_2": (48, 2, (2, 2, 1), (1, 2, 2), "base"),
    "taew2_2_super": (48, 2, (2, 2, 1), (1, 2, 2), "super"),
    "taehv1_5": (32, 2, (2, 2, 1), (1, 2, 2), "base"),
    "taehv1_5_super": (32, 2, (2, 2, 1), (1, 2, 2), "super"),
    "taeh3": (24, 2, (2, 2, 1), (1, 2, 2), "base"),
    "taeltx_2": (128, 4, (2, 2, 2), (2, 2, 2), "base"),
    "taeltx2_3": (128, 4, (2, 2, 2), (2, 2, 2), "base"),
    "taeltx2_3_wide": (128, 4, (2, 2, 2), (2, 2, 2), "wide"),
    "taem1": (12, 1, (3, 2, 1), (1, 2, 3), "base"),
    "lighttaehy1_5": (32, 2, (2, 2, 1), (1, 2, 2), "base"),
}
WIDTHS = {
    "base": (256, 128, 64, 64),
    "super": (512, 256, 128, 64),
    "wide": (1024, 512, 256, 64),
}


class Clamp(nn.Module):
    def forward(self, x):
        return 3 * torch.tanh(x / 3)


class Block(nn.Module):
    """Reads its input of the frame before as well."""

    def __init__(self, n, style, act):
        super().__init__()
        if style == "base":
            layers = [
                nn.Conv2d(2 * n, n, 3, padding=1),
                act,
                nn.Conv2d(n, n, 3, padding=1),
                act,
                nn.Conv2d(n, n, 3, padding=1),
            ]
        elif style == "wide":
            groups = n // 64
            layers = [
                nn.Conv2d(2 * n, n, 1),
                act,
                nn.Conv2d(n, n, 3, padding=1, groups=groups),
                act,
                nn.Conv2d(n, n, 1),
                act,
                nn.Conv2d(n, n, 3, padding=1, groups=groups),
            ]
        else:
            layers = [
                nn.Conv2d(2 * n, 2 * n, 7, padding=3, groups=2 * n, bias=False),
                nn.Conv2d(2 * n, 4 * n, 1),
                act,
                nn.Conv2d(4 * n, n, 1, bias=False),
            ]
        self.conv = nn.Sequential(*layers)
        self.last = nn.Identity() if style == "super" else act

    def forward(self, x, past):
        return self.last(self.conv(torch.cat([x, past], 1)) + x)


class Pool(nn.Module):
    def __init__(self, n, frames):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(n * frames, n, 1, bias=False)


class Grow(nn.Module):
    def __init__(self, n, frames):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(n, n * frames, 1, bias=False)


def build(name):
    """Return {"encoder": ..., "decoder": ...} of a row of the table, with random weights."""
    z, patch, pools, grows, style = TABLE[name]
    act = nn.LeakyReLU(0.2) if name.startswith("light") else nn.ReLU()
    encoder = [nn.Conv2d(3 * patch**2, 64, 3, padding=1), act]
    for pool in pools:
        encoder += [Pool(64, pool), nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)]
        encoder += [Block(64, "base", act) for _ in range(3)]
    encoder += [nn.Conv2d(64, z, 3, padding=1)]

    widths = WIDTHS[style]
    is_super = style == "super"
    if is_super:
        decoder = [nn.Conv2d(z, widths[0], 1, bias=False)]
    else:
        decoder = [Clamp(), nn.Conv2d(z, widths[0], 3, padding=1), act]
    for width, following, grow in zip(widths, widths[1:], grows, strict=False):
        decoder += [Block(width, style, act) for _ in range(3)]
        if is_super:
            decoder += [nn.Conv2d(width, 4 * following, 3, padding=1), act, nn.PixelShuffle(2)]
            decoder += [Grow(following, grow)]
        else:
            decoder += [nn.Upsample(scale_factor=2), Grow(width, grow)]
            decoder += [nn.Conv2d(width, following, 3, padding=1, bias=False)]
    decoder += [] if is_super else [act]
    decoder += [nn.Conv2d(widths[-1], 3 * patch**2, 3, padding=1)]
    return nn.ModuleDict({"encoder": nn.Sequential(*encoder), "decoder": nn.Sequential(*decoder)})


def run(layers, frames):
    """Run a list of frames (n, c, h, w) through layers, each layer over all frames in order."""
    for layer in layers:
        if isinstance(layer, Block):
            pasts = [torch.zeros_like(frames[0]), *frames[:-1]]
            frames = [layer(x, past) for x, past in zip(frames, pasts, strict=True)]
        elif isinstance(layer, Pool):
            groups = range(0, len(frames), layer.frames)
            frames = [layer.conv(torch.cat(frames[i : i + layer.frames], 1)) for i in groups]
        elif isinstance(layer, Grow):
            frames = [part for x in frames for part in layer.conv(x).chunk(layer.frames, 1)]
        else:
            frames = [layer(x) for x in frames]
    return frames


def encode(name, model, video):
    """Encode (n, t, 3, height, width): pad by the last frame, H3 in clips of 17 behind 3 zeros."""
    frames = [F.pixel_unshuffle(x, TABLE[name][1]) for x in video.unbind(1)]
    if name == "taeh3":
        frames += [frames[-1]] * (-len(frames) % 17)
        zeros = [torch.zeros_like(frames[0])] * 3
        clips = [zeros + frames[i : i + 17] for i in range(0, len(frames), 17)]
        latents = [z for clip in clips for z in run(model["encoder"], clip)][:-3]
    else:
        down = torch.tensor(TABLE[name][2]).prod().item()
        frames += [frames[-1]] * (-len(frames) % down)
        latents = run(model["encoder"], frames)
    return torch.stack(latents, 1)


def decode(name, model, latents):
    """Decode (n, t, c, h, w) to the frames of the video."""
    frames = run(model["decoder"], list(latents.unbind(1)))
    frames = [F.pixel_shuffle(x, TABLE[name][1]) for x in frames]
    up = torch.tensor(TABLE[name][3]).prod().item()
    if name == "taeh3":
        frames = [x for i, x in enumerate(frames) if i % (5 * up) >= up - 1]
    elif name != "taecvx" or latents.shape[1] % 2:
        frames = frames[up - 1 :]
    return torch.stack(frames, 1)

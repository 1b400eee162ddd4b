"""A second, plain PyTorch implementation of the family, to hold ours against.

It runs a state dict of published names layer by layer and shares no code with the package.
"""

import numpy as np
import torch
import torch.nn.functional as F


def to_torch(x):
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(x), -1, 1), order="C"))


def to_numpy(x):
    return np.moveaxis(x.numpy(), 1, -1)


def block(state, prefix, x, act=F.relu):
    if f"{prefix}.pool.0.weight" in state:
        p = F.conv2d(x, state[f"{prefix}.pool.0.weight"])
        p = F.group_norm(p, 4, state[f"{prefix}.pool.1.weight"], state[f"{prefix}.pool.1.bias"])
        x = x + F.conv2d(F.relu(p), state[f"{prefix}.pool.3.weight"])
    y = x
    for i in (0, 2, 4):
        y = F.conv2d(
            y, state[f"{prefix}.conv.{i}.weight"], state[f"{prefix}.conv.{i}.bias"], padding=1
        )
        y = act(y) if i < 4 else y
    if f"{prefix}.skip.weight" in state:
        x = F.conv2d(x, state[f"{prefix}.skip.weight"])
    return F.relu(x + y)


def _conv(state, i, x, stride=1):
    bias = state.get(f"{i}.bias")
    return F.conv2d(x, state[f"{i}.weight"], bias, stride=stride, padding=1)


def encode(state, image, act=F.relu):
    """NCHW in [-1, 1] -> NCHW latents; a gap in the numbering is an activation of the stem."""
    x = (image + 1) / 2
    numbers = sorted({int(k.split(".")[0]) for k in state})
    stem = numbers[1] == 2
    for i in numbers:
        if f"{i}.conv.0.weight" in state:
            x = block(state, i, x, act)
        else:
            in_stem = stem and i in (0, 2)
            stride = 2 if in_stem or f"{i}.bias" not in state else 1
            x = _conv(state, i, x, stride)
            x = act(x) if in_stem else x
    return x


def decode(state, latent, act=F.relu):
    """NCHW latents -> NCHW in about [-1, 1]; a convolution without bias follows an upsample."""
    x = torch.tanh(latent / 3) * 3
    for i in sorted({int(k.split(".")[0]) for k in state}):
        if f"{i}.conv.0.weight" in state:
            x = block(state, i, x, act)
        else:
            if f"{i}.bias" not in state:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = _conv(state, i, x)
            x = act(x) if i == 1 else x
    return x * 2 - 1

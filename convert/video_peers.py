"""The peers of `taesd-jax bench --video`: PyTorch running the same weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch

from taesd_jax.model.layers import Component
from taesd_jax.video import VIDEO_VARIANTS

from .peers import Peer
from .state_dicts import to_tensor
from .video_modules import TorchVideo


def make_video_peer(
    name: str,
    tensors: Mapping[str, np.ndarray],
    variant: str,
    component: Component,
    x: np.ndarray,
    *,
    dtype: str,
    threads: int,
) -> Peer:
    """Return functions that start a component on x, wait, and fetch its result, channels last.

    Args:
        name: "eager" (all frames at once, as the original does by default), "steps" (eager, a
            latent at a time) or "compile" (`torch.compile` of "eager").
        tensors: Published name -> tensor of both components.
        variant: Name of the model.
        component: "encoder" or "decoder".
        x: Its input, channels last.
        dtype: "float32" or "bfloat16".
        threads: Number of CPU threads.

    Raises:
        ValueError: There is no such peer for this component.
    """
    if name not in ("eager", "steps", "compile") or (name, component) == ("steps", "encoder"):
        raise ValueError(f"PyTorch has no {name!r} for a video {component} here")
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TorchVideo(variant)
    model.load_state_dict({key: to_tensor(tensor) for key, tensor in tensors.items()})
    model = model.to(device, getattr(torch, dtype)).eval()
    is_signed = VIDEO_VARIANTS[variant].signed_images
    example = torch.from_numpy(np.moveaxis(x, -1, 2).copy())
    if component == "encoder" and not is_signed:
        example = (example + 1) / 2
    example = example.to(device, getattr(torch, dtype))
    run: Callable[[torch.Tensor], torch.Tensor]
    run = model.encode if component == "encoder" else model.decode
    if name == "steps":
        run = functools.partial(model.decode, chunk=1)
    if name == "compile":
        run = torch.compile(run)

    def start() -> torch.Tensor:
        with torch.inference_mode():
            result = run(example)
            return result if component == "encoder" or is_signed else result * 2 - 1

    def wait(result: torch.Tensor) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return start, wait, lambda result: np.moveaxis(result.float().cpu().numpy(), 2, -1)

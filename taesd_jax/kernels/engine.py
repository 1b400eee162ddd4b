"""What serves convolutions in half precision in place of XLA's own: where, and how to leave it out.

On GPUs that is `hopper`. On CPUs it is oneDNN, whose bfloat16 convolutions XLA calls where compiler
options say so. Those belong to a whole program, so only programs of this library's own have them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

SWITCH = "TAESD_JAX_KERNELS"
# The first with oneDNN's convolutions, and with the Pallas that the kernels were tried with.
_OLDEST_JAX = (0, 11, 2)
_HOPPER = "9.0"  # compute capability
_H100_MULTIPROCESSORS = 132

ONEDNN_OPTIONS = {"xla_cpu_use_onednn": True, "xla_cpu_experimental_onednn_custom_call": True}


@dataclasses.dataclass(frozen=True)
class Engine:
    """What serves convolutions in half precision where it can; by default XLA's own alone.

    Attributes:
        multiprocessors: Of the Hopper GPU whose kernels do; 0 for none.
        onednn: Whether oneDNN does on a CPU; the program must have these `compiler_options`.
    """

    multiprocessors: int = 0
    onednn: bool = False

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """What the outermost program is compiled with."""
        return ONEDNN_OPTIONS if self.onednn else None


XLA = Engine()


def count_multiprocessors(
    kernels: bool | None = None, *, devices: Sequence[Any] | None = None
) -> int:
    """Return the multiprocessors of the Hopper GPUs at hand, 0 where kernels must not be used.

    Args:
        kernels: False for none, True also where there is no such GPU, as to lower a program for
            another machine; by default as the environment variable TAESD_JAX_KERNELS says: on,
            unless it is "0".
        devices: Those at hand; all of JAX's by default.
    """
    if _is_off(kernels):
        return 0
    gpus = [d for d in (jax.devices() if devices is None else devices) if d.platform == "gpu"]
    if gpus and all(getattr(gpu, "compute_capability", "") == _HOPPER for gpu in gpus):
        return getattr(gpus[0], "core_count", _H100_MULTIPROCESSORS)
    return _H100_MULTIPROCESSORS if kernels else 0


def has_onednn(dtype: DTypeLike, kernels: bool | None = None) -> bool:
    """Return whether oneDNN's convolutions in a dtype are to be used on this machine's CPU.

    Args:
        dtype: bfloat16, or another, for which they are not.
        kernels: False for never; by default as TAESD_JAX_KERNELS says.
    """
    return jnp.dtype(dtype) == jnp.bfloat16 and not _is_off(kernels) and has_fast_bfloat16()


def _is_off(kernels: bool | None) -> bool:
    if kernels is None and os.environ.get(SWITCH) == "0":
        kernels = False
    return kernels is False or jax.__version_info__ < _OLDEST_JAX


@functools.cache
def has_fast_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether a CPU multiplies bfloat16 faster than float32: by AMX, or AMD's AVX512-BF16.

    Intel's AVX512-BF16 has half the rate of its float32 instructions, with twice the products:
    there oneDNN and OpenVINO took longer in bfloat16 than in float32.
    """
    text = cpuinfo.read_text() if cpuinfo.exists() else ""  # Linux has it
    words = set(text.split())
    return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= words

"""One convolution with what follows it, in the arithmetic and by the kernels that suit a device."""

from .engine import ONEDNN_OPTIONS, XLA, Engine, count_multiprocessors, has_onednn
from .forms import Convolve, ConvSpec, Padding, activation, conv_in_float32, convolve
from .fused_conv import fused_conv
from .kernel_gradients import conv_fast_kernel_grad
from .rounding import is_half, round_to, upcast, wide_dtype

__all__ = [
    "ONEDNN_OPTIONS",
    "XLA",
    "ConvSpec",
    "Convolve",
    "Engine",
    "Padding",
    "activation",
    "conv_fast_kernel_grad",
    "conv_in_float32",
    "convolve",
    "count_multiprocessors",
    "fused_conv",
    "has_onednn",
    "is_half",
    "round_to",
    "upcast",
    "wide_dtype",
]

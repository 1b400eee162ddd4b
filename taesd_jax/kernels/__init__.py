"""One convolution with what follows it, in the arithmetic and by the kernels that suit a device."""

from .choice import count_multiprocessors
from .forms import Convolve, ConvSpec, Padding, activation, conv_in_float32, convolve
from .fused_conv import fused_conv
from .kernel_gradients import conv_fast_kernel_grad
from .rounding import is_half, round_to, upcast, wide_dtype

__all__ = [
    "ConvSpec",
    "Convolve",
    "Padding",
    "activation",
    "conv_fast_kernel_grad",
    "conv_in_float32",
    "convolve",
    "count_multiprocessors",
    "fused_conv",
    "is_half",
    "round_to",
    "upcast",
    "wide_dtype",
]

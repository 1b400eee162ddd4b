"""3x3 convolutions of 64 channels on Hopper GPUs, by Pallas Mosaic GPU; half precision, NHWC.

Bias, skip and ReLU are added to float32 sums, which are rounded once. Forward only. Pallas calls
this API unstable, so nothing outside this folder imports it: what fails here runs in XLA instead.
"""

from .conv import conv, upsample_conv
from .image import conv_to_image

__all__ = ["conv", "conv_to_image", "upsample_conv"]

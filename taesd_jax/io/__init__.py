"""Files: images, latents and arrays larger than memory. Only here do values have 8 bits."""

from .arrays import ResumableArrayWriter, open_array
from .images import from_uint8, pad_image, psnr, read_image, read_pixels, to_uint8, write_image
from .latents import StoredLatent, read_latent, write_latent
from .videos import read_video, write_video

__all__ = [
    "ResumableArrayWriter",
    "StoredLatent",
    "from_uint8",
    "open_array",
    "pad_image",
    "psnr",
    "read_image",
    "read_latent",
    "read_pixels",
    "read_video",
    "to_uint8",
    "write_image",
    "write_latent",
    "write_video",
]

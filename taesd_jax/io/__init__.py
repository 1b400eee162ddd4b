"""Files: atomic writes, images, latents and arrays larger than memory. The only 8-bit values."""

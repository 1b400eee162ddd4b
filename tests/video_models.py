"""Small video models and their inputs, drawn by numpy: the same bits on every machine."""

import jax.numpy as jnp
import numpy as np

from taesd_jax.video import VIDEO_VARIANTS
from taesd_jax.video.tensors import from_tensors, tensor_shapes

NARROW = {"encoder_channels": 8, "decoder_channels": (16, 8, 8, 8), "num_blocks": 1}


def narrow(name, **changes):
    """Return a variant of few channels and blocks: all its kinds of layers, little to compile."""
    fields = {"group_channels": 4, "latent_channels": 4} | NARROW | changes
    return VIDEO_VARIANTS[name].replace(**fields)


def random_tensors(config, seed=0, dtype=np.float32):
    """Return tensors by their published names, scaled so that activations keep their size."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape)
        scale = 0.1 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
        tensors[name] = (scale * values).astype(dtype)
    return tensors


def random_params(config, seed=0):
    return from_tensors(random_tensors(config, seed), config=config)


# XLA sums in another order for images of fewer latents and, where a processor has no AVX-512, for
# the last pixels of narrow layers unless 48 divides their number.
def latents(config, t, size=(8, 12), n=1, seed=0, dtype=np.float32):
    shape = (n, t, *size, config.latent_channels)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def video(config, frames, size=(1, 2), n=1, seed=0, dtype=np.float32):
    """Return a video; `size` counts latents."""
    height, width = (config.spatial_factor * side for side in size)
    shape = (n, frames, height, width, 3)
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), dtype)

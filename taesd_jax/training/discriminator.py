"""A conditional patch discriminator, and the target image that it gives to a decoder.

After Ollin Boer Bohan's Seraena: convolutions with BatchNorm score patches of images, given their
latents. Part of the fakes come from a buffer of older ones. The decoder does not get the gradient
of the scores but a target image: its own, moved along the gradient in units of the gradient's
deviation, so that the strength does not depend on the discriminator. Unlike Seraena, the
discriminator also sees amplified fine detail.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..kernels import conv_fast_kernel_grad
from ..model.functional import Params
from .losses import fine_detail

_STAGES = 6
# Gains of fine detail, images and latents. A decoder lacks fine detail first, and it is a tenth of
# what an image holds. After 120 steps of AdamW at 1e-3 on 6 crops of 128 pixels, decodings by taesd
# and by a student with half their detail were told apart with a loss of 0.97 without it, and 0.61
# with it; 1 is chance.
_INPUT_GAINS = (15.0, 0.5, 0.3)
_EPSILON = 1e-5


class ReplayBuffer(NamedTuple):
    """Fakes of earlier steps with their latents; new ones replace the oldest.

    Attributes:
        images: (size, h, w, 3).
        latents: (size, h/8, w/8, z).
        added: Number of fakes ever added.
    """

    images: jax.Array
    latents: jax.Array
    added: jax.Array


class DiscriminatorState(NamedTuple):
    """What training a discriminator changes: its params, its optimizer's state and its buffer."""

    params: Params
    optimizer: Any
    replay: ReplayBuffer


def init_discriminator(key: jax.Array, *, latent_channels: int, width: int = 64) -> Params:
    """Draw random params."""
    params: Params = {}
    channels = 6 + latent_channels  # 3 of fine detail, 3 of the image
    for stage, stage_key in enumerate(jax.random.split(key, _STAGES)):
        kernel_key, score_key = jax.random.split(stage_key)
        scale = (2 / (9 * channels)) ** 0.5
        params[f"stage_{stage}"] = {
            "kernel": scale * jax.random.normal(kernel_key, (3, 3, channels, width), jnp.float32),
            "scale": jnp.ones(width, jnp.float32),
            "bias": jnp.zeros(width, jnp.float32),
            # Small, so that scores do not start as noise that must be unlearnt.
            "score": 0.1 * width**-0.5 * jax.random.normal(score_key, (width,), jnp.float32),
            "score_bias": jnp.zeros((), jnp.float32),
        }
        channels = width
    return params


def score(params: Params, images: jax.Array, latents: jax.Array) -> list[jax.Array]:
    """Score patches of images (n, h, w, 3), given their latents (n, h/8, w/8, z).

    Returns:
        A map (n, h', w') for each stage, near 1 for fakes and near -1 for real images.
    """
    n, h, w, _ = images.shape
    shape = (n, h, w, latents.shape[-1])
    inputs = (fine_detail(images), images, jax.image.resize(latents, shape, "nearest"))
    x = jnp.concatenate([s * x for s, x in zip(_INPUT_GAINS, inputs, strict=True)], axis=-1)
    maps = []
    for stage in range(_STAGES):
        p = params[f"stage_{stage}"]
        stride = 2 if stage in (1, 3) else 1
        x: jax.Array = conv_fast_kernel_grad(x, p["kernel"], stride, ((1, 1), (1, 1)))
        mean = x.mean((0, 1, 2), keepdims=True)
        deviation = jnp.sqrt(((x - mean) ** 2).mean((0, 1, 2), keepdims=True) + _EPSILON)
        gain, bias = (p[name].reshape(1, 1, 1, -1) for name in ("scale", "bias"))
        x = jax.nn.relu((x - mean) / deviation * gain + bias)
        maps.append(x @ p["score"] + p["score_bias"])
    return maps


def discriminator_loss(
    params: Params,
    real: jax.Array,
    fake: jax.Array,
    real_latents: jax.Array,
    fake_latents: jax.Array,
) -> jax.Array:
    """Return the mean squared error of scores, which should be -1 for real images, 1 for fakes.

    Latents are those of the real images, and those that the fakes were decoded from.
    """
    # One batch, so that BatchNorm sees both.
    images, latents = jnp.concatenate([real, fake]), jnp.concatenate([real_latents, fake_latents])
    target = jnp.where(jnp.arange(len(images)) < len(real), -1.0, 1.0)
    maps = score(params, images, latents)
    losses = [jnp.mean((m - target.reshape(-1, 1, 1)) ** 2) for m in maps]
    return jnp.mean(jnp.stack(losses))


def adversarial(
    fake: jax.Array, real: jax.Array, *, discriminator: Params, latent: jax.Array
) -> jax.Array:
    """Return the distance of scores, with the gradient of an error from a target image.

    The distance is the mean squared difference between the scores of fakes and of real images with
    the same latents. The target is the fake minus the distance's gradient, divided by the standard
    deviation of that gradient over the batch; the error is the mean squared one.
    """
    real, latents = lax.stop_gradient((real, jnp.concatenate([latent, latent])))

    def distance(fake: jax.Array) -> jax.Array:
        # One batch, as in training: in a batch of fakes BatchNorm would hide what all of them lack.
        maps = score(discriminator, jnp.concatenate([real, fake]), latents)
        n = len(real)
        return jnp.mean(jnp.stack([jnp.mean((m[n:] - m[:n]) ** 2) for m in maps]))

    value, gradient = jax.value_and_grad(distance)(lax.stop_gradient(fake))
    target = lax.stop_gradient(fake) - gradient / (jnp.std(gradient) + 1e-12)
    error = jnp.mean((fake - target) ** 2)
    return value + (error - lax.stop_gradient(error))


def replay(
    key: jax.Array, buffer: ReplayBuffer, fake: jax.Array, latents: jax.Array
) -> tuple[ReplayBuffer, jax.Array, jax.Array]:
    """Replace the first half of a batch of fakes by older ones, and add the whole batch.

    The batch comes back as it is until the buffer has enough older ones.

    Returns:
        The new buffer, the mixed fakes and their latents.
    """
    n, half, size = len(fake), len(fake) // 2, len(buffer.images)
    stored = jnp.minimum(buffer.added, size)
    chosen = jax.random.randint(key, (half,), 0, jnp.maximum(stored, 1))
    enough = stored >= half
    old = jnp.where(enough, buffer.images[chosen], fake[:half])
    old_latents = jnp.where(enough, buffer.latents[chosen], latents[:half])
    slots = (buffer.added + jnp.arange(n)) % size
    buffer = ReplayBuffer(
        buffer.images.at[slots].set(fake),
        buffer.latents.at[slots].set(latents),
        buffer.added + n,
    )
    mixed = jnp.concatenate([old, fake[half:]])
    return buffer, mixed, jnp.concatenate([old_latents, latents[half:]])

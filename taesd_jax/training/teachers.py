"""Teachers: models of the TAESD family, or functions from images to latents."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ..autoencoder import AutoencoderTiny
from ..io.images import from_uint8
from ..model.layers import COMPONENTS
from ..strategies.run import decode, encode
from ..weights.files import digest_tree
from .features import stage_features
from .losses import sharpen
from .recipe import Recipe

# A function maps images (n, h, w, 3) in [-1, 1] to latents (n, h/8, w/8, z). Arrays that it closes
# over become constants of the compiled program; those of a `jax.tree_util.Partial` are arguments.
Teacher = AutoencoderTiny | Callable[[jax.Array], jax.Array]
Batch = Mapping[str, Any]


def as_pytree(teacher: Teacher) -> AutoencoderTiny | Partial:
    """Return a teacher that can be an argument of a compiled function."""
    return teacher if isinstance(teacher, (AutoencoderTiny, Partial)) else Partial(teacher)


def encode_with(teacher: Teacher, images: jax.Array) -> jax.Array:
    """Return the teacher's latents of images, in float32."""
    if isinstance(teacher, AutoencoderTiny):
        return encode(teacher.params, images, config=teacher.config).astype(jnp.float32)
    return teacher(images).astype(jnp.float32)


def decode_with(teacher: Teacher, latents: jax.Array) -> jax.Array | None:
    """Return the teacher's images of latents, clipped to [-1, 1]; None if it has no decoder."""
    if not isinstance(teacher, AutoencoderTiny) or "decoder" not in teacher.params:
        return None
    return jnp.clip(decode(teacher.params, latents, config=teacher.config), -1, 1)


@functools.partial(jax.jit, static_argnames="decode")
def run_teacher(
    teacher: AutoencoderTiny | Partial, images: jax.Array, *, decode: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Return the teacher's latents of images, and its images of these if asked to `decode`."""

    def run(image: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        latent = encode_with(teacher, image[None])
        decoded = decode_with(teacher, latent) if decode else None
        return latent[0], None if decoded is None else decoded[0]

    # One at a time: the activations of a batch would not fit the caches, nor a small GPU.
    return jax.lax.map(run, images)


def add_targets(teacher: Teacher, batch: Batch, recipe: Recipe) -> dict[str, Any]:
    """Add to a batch of images what the recipe's losses compare the student with.

    Args:
        teacher: Computes what the batch does not have.
        batch: "image" (n, h, w, 3), floating point in [-1, 1] or 8 bits; perhaps the teacher's
            "latent" and its reconstruction, "decoded".
        recipe: What is learnt.

    Returns:
        "image" and "latent"; "target", the target images; and where a loss compares features,
        "features" of each of the teacher's stages.
    """
    values: dict[str, Any] = {
        name: from_uint8(x) if x.dtype == jnp.uint8 else x for name, x in batch.items()
    }
    image = values["image"]
    latent = values["latent"] if "latent" in values else encode_with(teacher, image)
    target = image
    if recipe.teacher_blend:
        decoded = values["decoded"] if "decoded" in values else decode_with(teacher, latent)
        assert decoded is not None
        target = recipe.teacher_blend * decoded + (1 - recipe.teacher_blend) * image
    if recipe.sharpen:
        target = sharpen(target, recipe.sharpen)
    targets: dict[str, Any] = {"image": image, "latent": latent, "target": target}
    if recipe.needs("features"):
        assert isinstance(teacher, AutoencoderTiny)
        x, component = image if recipe.component == "encoder" else latent, recipe.component
        _, targets["features"] = stage_features(
            teacher.params[component], x, component=component, config=teacher.config
        )
    return targets


def teacher_digest(teacher: Teacher, *, size: int) -> str:
    """Return a digest of a teacher: a model's params and config, or what a function computes.

    A function is known by its name, the arrays of a Partial, and the mean and deviation of its
    latents of one noise image with sides of `size`.
    """
    teacher = as_pytree(teacher)
    if isinstance(teacher, AutoencoderTiny):
        params = {name: teacher.params[name] for name in COMPONENTS if name in teacher.params}
        return digest_tree(params, repr(teacher.config.architecture))
    function = teacher.func
    name = getattr(function, "__qualname__", type(function).__name__)
    noise = np.random.default_rng(0).uniform(-1, 1, (1, size, size, 3)).astype("f4")
    latents = np.asarray(encode_with(teacher, jnp.asarray(noise)))
    text = f"{getattr(function, '__module__', '')}.{name}"
    return digest_tree(teacher, f"{text} {latents.mean():.2e} {latents.std():.2e}")

"""Teachers: models of the family, or functions of images that give latents."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ..autoencoder import AutoencoderTiny
from ..io.images import from_uint8
from ..model.layers import COMPONENTS, Component
from ..strategies.run import decode, encode
from .features import responses, stage_features
from .losses import sharpen
from .recipe import Recipe

# Images (n, h, w, 3) in [-1, 1] -> latents (n, h/8, w/8, z). The arrays that a function closes over
# become constants of the compiled program, those of a `jax.tree_util.Partial` arguments.
Teacher = AutoencoderTiny | Callable[[jax.Array], jax.Array]
Batch = Mapping[str, jax.Array]


def as_pytree(teacher: Teacher) -> Any:
    """Return a teacher that compiled functions take as an argument."""
    is_pytree = isinstance(teacher, (AutoencoderTiny, Partial))
    return teacher if is_pytree else Partial(teacher)


def encode_with(teacher: Teacher, images: jax.Array) -> jax.Array:
    """Return the teacher's latents of images, float32."""
    if isinstance(teacher, AutoencoderTiny):
        return encode(teacher.params, images, config=teacher.config).astype(jnp.float32)
    return teacher(images).astype(jnp.float32)


def decode_with(teacher: Teacher, latents: jax.Array) -> jax.Array | None:
    """Return what a teacher with a decoder makes of latents, clipped to [-1, 1]; else None."""
    if not isinstance(teacher, AutoencoderTiny) or "decoder" not in teacher.params:
        return None
    return jnp.clip(decode(teacher.params, latents, config=teacher.config), -1, 1)


def answer(teacher: Teacher, batch: Batch, recipe: Recipe) -> dict[str, jax.Array]:
    """Add to a batch of images what the teacher says of them, as far as a recipe needs it.

    Pictures of 8 bits become images. What is added is "latent", where it is not there; "target",
    the images to aim at; and "feature_0", "feature_1" and so on of the stages.
    """
    found: dict[str, Any] = dict(batch)
    found = {name: from_uint8(x) if x.dtype == jnp.uint8 else x for name, x in found.items()}
    if "latent" not in found:
        found["latent"] = encode_with(teacher, found["image"])
    found["target"] = found["image"]
    if recipe.imitate:
        decoded = found["decoded"] if "decoded" in found else decode_with(teacher, found["latent"])
        assert decoded is not None
        found["target"] = recipe.imitate * decoded + (1 - recipe.imitate) * found["image"]
    if recipe.sharpen:
        found["target"] = sharpen(found["target"], recipe.sharpen)
    if recipe.matches_features:
        assert isinstance(teacher, AutoencoderTiny)
        half = recipe.half
        x = found["image" if half == "encoder" else "latent"]
        _, features = stage_features(teacher.params[half], x, half=half, config=teacher.config)
        return found | {f"feature_{i}": feature for i, feature in enumerate(features)}
    return found


@functools.partial(jax.jit, static_argnames="half")
def measure_responses(
    teacher: AutoencoderTiny, images: jax.Array, *, half: Component
) -> list[jax.Array]:
    """Return `responses` of a teacher's half, measured with images."""
    x = images if half == "encoder" else encode_with(teacher, images)
    return responses(teacher.params[half], x, jax.random.key(0), half=half, config=teacher.config)


def teacher_digest(teacher: Teacher, *, side: int) -> str:
    """Return what tells teachers apart: params and config of a model, what a function does.

    Of a function it is the name, what a Partial holds, and the mean and spread of its latents of
    one image of noise with that side.
    """
    found = hashlib.sha256()
    if isinstance(teacher, AutoencoderTiny):
        found.update(repr(teacher.config.architecture).encode())
        tree: Any = {half: teacher.params[half] for half in COMPONENTS if half in teacher.params}
    else:
        function = teacher.func if isinstance(teacher, Partial) else teacher
        name = getattr(function, "__qualname__", type(function).__name__)
        found.update(f"{getattr(function, '__module__', '')}.{name}".encode())
        tree = teacher if isinstance(teacher, Partial) else ()
        noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype("f4")
        latents = np.asarray(encode_with(teacher, jnp.asarray(noise)))
        found.update(f"{latents.mean():.2e} {latents.std():.2e}".encode())
    return digest_of(tree, found)


def digest_of(tree: Any, found: Any = None) -> str:
    """Return a digest of the arrays in a pytree."""
    found = found or hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]

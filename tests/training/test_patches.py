"""Losses between distributions of patches, of pixels and as an encoder sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainings import TWO_STAGES, model

from taesd_jax.training import losses
from taesd_jax.training.features import stage_features
from taesd_jax.training.registry import LOSSES


def test_patches_take_the_smallest_crops_that_they_name():
    key, size = jax.random.key(0), LOSSES["patches"].min_size
    assert size == LOSSES["encoded_patches"].min_size
    image = jnp.zeros((1, size, size, 3))
    assert losses.patches(image, image, key) == 0
    assert losses.encoded_patches([image], [image], key) == 0
    with pytest.raises(ValueError, match=f"features with sides of at least {size}"):
        losses.encoded_patches([image[:, 1:]], [image[:, 1:]], key)


def test_patches_are_compared_wherever_they_lie():
    rng, key = np.random.default_rng(0), jax.random.key(0)
    one, other = (jnp.asarray(rng.normal(size=(1, 64, 64, 3)), "f4") for _ in range(2))
    assert losses.patches(one, one, key) == 0
    y, x = np.indices((64, 64))
    weave = one.std() * jnp.asarray((-1.0) ** (x // 2 + y // 2), "f4")[None, :, :, None]
    apart = {
        "moved": losses.patches(jnp.roll(one, (5, 3), (1, 2)), one, key),
        "other": losses.patches(other, one, key),
        "weave": losses.patches(weave, one, key),
        "blur": losses.patches(0.5 * one, one, key),
    }
    assert apart["moved"] < 0.05 * losses.mse(jnp.roll(one, (5, 3), (1, 2)), one)
    # Few patches of the same kind differ by chance.
    assert max(apart["moved"], apart["other"]) < 0.2 * min(apart["weave"], apart["blur"])
    assert losses.patches(other, one, jax.random.key(1)) != apart["other"]
    for image in (other, one, jnp.zeros_like(one)):
        assert np.isfinite(jax.grad(losses.patches)(image, one, key)).all()


def test_patches_are_compared_within_windows():
    rng, key = np.random.default_rng(0), jax.random.key(0)
    left = np.where(np.arange(320) < 160, 1, 3)[:, None]
    one, other = (rng.normal(size=(2, 64, 320, 3)) * left for _ in range(2))
    one, other = (jnp.asarray(x, "f4") for x in (one, other))
    apart, swapped = losses.patches(other, one, key), losses.patches(other[:, :, ::-1], one, key)
    assert apart < 0.1 * swapped


def test_encoded_patches_are_compared_wherever_they_lie():
    rng, key = np.random.default_rng(0), jax.random.key(0)
    encoder = model().params["encoder"]

    def apart(image, target):
        options = {"component": "encoder", "config": TWO_STAGES}
        seen = [stage_features(encoder, x, **options)[1] for x in (image, target)]
        return losses.encoded_patches(*seen, key)

    one, other = (jnp.asarray(rng.normal(size=(1, 64, 64, 3)) / 3, "f4") for _ in range(2))
    assert apart(one, one) == 0
    alike = max(float(apart(x, one)) for x in (other, jnp.roll(one, (5, 3), (1, 2))))
    assert alike < 0.3 * apart(0.5 * one, one)
    # Strokes are as strong as the noise that they are made of.
    assert alike < 0.5 * apart(jnp.repeat(one[:, ::8], 8, axis=1), one)
    for image in (other, jnp.zeros_like(one)):
        assert np.isfinite(jax.grad(apart)(image, one)).all()


def test_encoded_patches_are_of_the_first_two_stages():
    key, (one, other) = jax.random.key(0), (stages(np.random.default_rng(i)) for i in range(2))
    whole = losses.encoded_patches(other, one, key)
    first = losses.encoded_patches([other[0], *one[1:]], one, key)
    second = losses.encoded_patches([one[0], other[1], one[2]], one, key)
    assert 0 < second < first
    assert float(whole) == pytest.approx(float(first + second), rel=1e-5)
    assert losses.encoded_patches([*one[:2], other[2]], one, key) == 0
    assert losses.encoded_patches(other[:1], one[:1], key) == first  # an encoder of one stage


def test_encoded_patches_are_in_units_of_the_targets_spread():
    key, (one, other) = jax.random.key(0), (stages(np.random.default_rng(i)) for i in range(2))
    whole = float(losses.encoded_patches(other, one, key))
    stronger = losses.encoded_patches([8 * x for x in other], [8 * x for x in one], key)
    assert float(stronger) == pytest.approx(whole, rel=1e-3)
    # A channel that the target leaves at rest weighs no more than another one.
    resting = [x.at[..., 0].set(0) for x in one]
    moved = [x.at[..., 0].multiply(0.1) for x in other]
    assert losses.encoded_patches(moved, resting, key) < 2 * whole
    # Nor does a target without any texture.
    assert losses.encoded_patches([1 + 0.1 * x for x in other], [x * 0 + 1 for x in one], key) < 2


def test_encoded_patches_are_compared_within_windows():
    key, left = jax.random.key(0), jnp.where(jnp.arange(320) < 160, 1.0, 3.0)[None, None, :, None]
    one, other = (
        [x * left[:, :, :: 320 // x.shape[2]] for x in stages(np.random.default_rng(i), 64, 320)]
        for i in range(2)
    )
    swapped = losses.encoded_patches([x[:, :, ::-1] for x in other], one, key)
    assert losses.encoded_patches(other, one, key) < 0.2 * swapped


def stages(rng, height=64, width=64):
    sizes = ((height // f, width // f) for f in (1, 2, 4))
    return [jnp.asarray(rng.normal(size=(1, *size, 8)), "f4") for size in sizes]


def test_a_step_along_the_patches_gradient_lowers_them():
    rng, key = np.random.default_rng(0), jax.random.key(0)
    image, target = (jnp.asarray(scale * rng.normal(size=(1, 32, 32, 3)), "f4") for scale in (1, 2))
    value, gradient = jax.value_and_grad(losses.patches)(image, target, key)
    slope = jnp.sum(gradient**2)
    lower = losses.patches(image - 0.1 * value / slope * gradient, target, key)
    assert float(lower) == pytest.approx(0.9 * float(value), rel=0.02)  # quadratic in the step

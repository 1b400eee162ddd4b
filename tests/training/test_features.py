"""Features of the stages, and the sensitivity of the output to them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainings import TWO_STAGES

from taesd_jax import decode, encode, init
from taesd_jax.training.features import (
    feature_distance,
    output_sensitivity,
    response_distance,
    stage_features,
)

# Float32 sums of a few thousand terms, in another order.
ROUNDING = 2e-5
# The mean of 4,096 random signs' squares is so near to what it estimates.
BY_CHANCE = 0.15


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_stage_features_pass_through_the_model(component):
    config = TWO_STAGES.replace(
        decoder_block_out_channels=(8, 4), encoder_block_out_channels=(4, 8)
    )
    params = init(jax.random.key(0), config=config)
    rng = np.random.default_rng(0)
    shape = (1, 16, 24, 3) if component == "encoder" else (1, 8, 12, 4)
    x = jnp.asarray(rng.uniform(-1, 1, shape), "f4")
    run = encode if component == "encoder" else decode
    options = {"component": component, "config": config}
    found, features = jax.jit(lambda p, x: stage_features(p, x, **options))(params[component], x)
    want = jax.jit(lambda p, x: run(p, x, config=config))(params, x)
    assert np.allclose(found, want, atol=ROUNDING)
    widths = getattr(config, f"{component}_block_out_channels")
    assert tuple(feature.shape[-1] for feature in features) == widths
    assert feature_distance(features, features) == 0

    def total(p, remat):
        return stage_features(p, x, remat=remat, **options)[0].sum()

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    plain, again = (gradient(params[component], remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)


def test_a_stem_belongs_to_the_first_stage():
    config = TWO_STAGES.replace(
        encoder_stem_channels=(4, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    params = init(jax.random.key(0), config=config)["encoder"]
    _, features = stage_features(
        params, jnp.zeros((1, 32, 48, 3)), component="encoder", config=config
    )
    assert [feature.shape for feature in features] == [(1, 8, 12, 8), (1, 4, 6, 8)]


def test_features_of_other_widths_are_left_out():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(1, 4, 4, 8)).astype("f4") for _ in range(2))
    other = jnp.zeros((1, 8, 8, 4))
    got = feature_distance([jnp.asarray(a), other], [jnp.asarray(b), jnp.zeros((1, 8, 8, 6))])
    assert float(got) == pytest.approx(np.mean((a - b) ** 2) / np.var(b), rel=1e-5)


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_output_sensitivity_is_that_of_the_jacobian(component):
    config = TWO_STAGES.replace(
        decoder_block_out_channels=(4, 3), encoder_block_out_channels=(3, 4), act_fn="silu"
    )
    params = init(jax.random.key(0), config=config)[component]
    shape = (1, 4, 4, 3) if component == "encoder" else (1, 2, 2, 4)
    x = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)
    run = functools.partial(stage_features, params, x, component=component, config=config)
    still = [jnp.zeros(feature.shape) for feature in jax.eval_shape(run)[1]]
    slopes = jax.jit(jax.jacrev(lambda added: run(perturbations=added)[0]))(still)
    measure = jax.jit(functools.partial(output_sensitivity, component=component, config=config))
    found = measure(params, jnp.repeat(x, 4096, 0), jax.random.key(2))
    for matrix, slope, feature in zip(found, slopes, still, strict=True):
        slope = np.asarray(slope).reshape(-1, slope.shape[-1])  # of each result by each place
        want = slope.T @ slope / (feature.size / feature.shape[-1])
        assert np.abs(matrix - want).max() < BY_CHANCE * np.abs(want).max()


def test_the_distance_of_responses_by_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 4, 4, 8)).astype("f4")
    root = rng.normal(size=(8, 8)).astype("f4")
    other = [jnp.zeros((1, 8, 8, width)) for width in (4, 6)]
    weights = [jnp.asarray(root @ root.T), jnp.ones((6, 6))]
    got = response_distance([jnp.asarray(a), other[0]], [jnp.asarray(b), other[1]], weights)
    want = np.sum(((a - b) @ root) ** 2) / np.sum(((b - b.mean((0, 1, 2))) @ root) ** 2)
    assert float(got) == pytest.approx(want, rel=1e-4)

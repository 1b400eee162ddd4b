"""Previews arrive, and the sampler does not notice: same bits, no waiting, no failures."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from models import SHORT, latent, random_model, with_thumbnails

import taesd_jax
from taesd_jax.io import to_uint8
from taesd_jax.previews import PreviewStream, WriteAnimation, predict_x0

STEPS = 10


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, random_model(SHORT)[0])


class Gallery(dict):
    """Keep previews by step."""

    def __call__(self, step, pixels):
        self.setdefault(step, []).append(pixels)


def denoise(x, i):
    return x * 0.98 + 0.01 * jnp.sin(x.mean() + jnp.asarray(i, x.dtype))


def sample(x, tap=lambda step, x: None, loop="scan"):
    def body(i, x):
        x = denoise(x, i)
        tap(i, x)
        return x

    if loop == "scan":
        return jax.lax.scan(lambda x, i: (body(i, x), None), x, jnp.arange(STEPS))[0]
    if loop == "fori_loop":
        return jax.lax.fori_loop(0, STEPS, body, x)
    state = (jnp.int32(0), x)
    return jax.lax.while_loop(lambda s: s[0] < STEPS, lambda s: (s[0] + 1, body(*s)), state)[1]


@pytest.mark.parametrize("loop", ["scan", "fori_loop", "while_loop"])
def test_every_loop_shows_its_steps_and_keeps_its_bits(params, loop):
    x = jnp.asarray(latent(SHORT, (4, 3), n=3))
    gallery = Gallery()
    with PreviewStream(gallery, config=SHORT, every=3, max_images=2) as stream:
        run = jax.jit(lambda p, x: sample(x, lambda i, x: stream.tap(p, i, x), loop))
        result = run(params, x)
    np.testing.assert_array_equal(result, jax.jit(lambda x: sample(x, loop=loop))(x))
    assert sorted(gallery) == [0, 3, 6, 9]
    shown = x
    for i in range(STEPS):
        shown = denoise(shown, i)
        if i in gallery:
            expected = to_uint8(np.asarray(taesd_jax.decode(params, shown[:2], config=SHORT)))
            (pixels,) = gallery[i]
            assert pixels.shape == (2, 32, 24, 3)
            # Another jit, another rounding: a level at most.
            assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_chunks_of_steps_on_the_host(params):
    x = jnp.asarray(latent(SHORT, (4, 3)))
    run = jax.jit(lambda x, start: jax.lax.fori_loop(0, 5, lambda j, x: denoise(x, start + j), x))
    gallery, y = Gallery(), x
    with PreviewStream(gallery, config=SHORT, every=5) as stream:
        for start in range(0, STEPS, 5):
            y = run(y, start)
            stream.tap(params, start + 5, y)
            stream.tap(params, start + 4, y)  # not one to show
    assert sorted(gallery) == [5, 10]
    expected = to_uint8(np.asarray(taesd_jax.decode(params, y, config=SHORT)))
    np.testing.assert_array_equal(gallery[10][0], expected)


def test_vmap_shows_every_example(params):
    x = jnp.asarray(latent(SHORT, (4, 4), n=3))
    gallery = Gallery()
    with PreviewStream(gallery, config=SHORT, every=5) as stream:
        run = jax.vmap(lambda x: sample(x[None], lambda i, x: stream.tap(params, i, x))[0])
        result = jax.jit(run)(x)
    assert {step: len(shown) for step, shown in gallery.items()} == {0: 3, 5: 3}
    np.testing.assert_array_equal(result, jax.jit(jax.vmap(lambda x: sample(x[None])[0]))(x))


def test_a_batched_step_shows_only_what_is_due(params):
    gallery = Gallery()
    with PreviewStream(gallery, config=SHORT, every=2) as stream:
        x = jnp.asarray(latent(SHORT, (4, 4), n=3))
        jax.jit(jax.vmap(lambda i, x: stream.tap(params, i, x[None])))(jnp.arange(3), x)
    assert sorted(gallery) == [0, 2]


def test_gradients_are_those_without_previews(params):
    x = jnp.asarray(latent(SHORT, (4, 4)))
    gallery = Gallery()
    with PreviewStream(gallery, config=SHORT, every=5) as stream:
        tap = lambda i, x: stream.tap(params, i, x)  # noqa: E731
        got = jax.jit(jax.grad(lambda x: sample(x, tap).sum()))(x)
    np.testing.assert_array_equal(got, jax.jit(jax.grad(lambda x: sample(x).sum()))(x))
    assert sorted(gallery) == [0, 5]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_over_several_devices(params, kind):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
    x = jnp.asarray(latent(SHORT, (4, 4), n=8))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    gallery = Gallery()
    with PreviewStream(gallery, config=SHORT, every=5, max_images=3) as stream:
        run = jax.jit(lambda p, x: sample(x, lambda i, x: stream.tap(p, i, x)))
        result = run(everywhere, jax.device_put(x, rows))
    assert result.sharding.is_equivalent_to(rows, 4)
    np.testing.assert_array_equal(result, jax.jit(sample)(jax.device_put(x, rows)))
    assert {step: [p.shape[0] for p in shown] for step, shown in gallery.items()} == {
        0: [3],
        5: [3],
    }


def test_a_slow_consumer_misses_the_oldest(params):
    x = jnp.asarray(latent(SHORT, (4, 4)))
    release, seen = threading.Event(), []

    def consumer(step, pixels):
        release.wait()
        seen.append(step)

    stream = PreviewStream(consumer, config=SHORT, max_queue=2)
    sampler = jax.jit(lambda p, x: sample(x, lambda i, x: stream.tap(p, i, x)))
    jax.block_until_ready(sampler(params, x))  # ends although the consumer hangs
    jax.effects_barrier()
    release.set()
    stream.close()
    # The first may have been taken before the others came.
    assert len(seen) + stream.dropped == STEPS
    assert seen[-2:] == [8, 9]
    assert len(seen) <= 3
    stream.close()


def test_nothing_is_lost_on_close(params):
    x = jnp.asarray(latent(SHORT, (4, 4)))
    seen = []

    def consumer(step, pixels):
        time.sleep(0.02)
        seen.append(step)

    stream = PreviewStream(consumer, config=SHORT)
    jax.jit(lambda p, x: sample(x, lambda i, x: stream.tap(p, i, x)))(params, x)
    stream.close()
    assert sorted(seen) == list(range(STEPS))


def test_a_failing_consumer_is_reported_and_called_again(params):
    x = jnp.asarray(latent(SHORT, (4, 4)))
    seen = []

    def consumer(step, pixels):
        seen.append(step)
        raise OSError("disk full")

    stream = PreviewStream(consumer, config=SHORT, every=5)
    result = jax.jit(lambda p, x: sample(x, lambda i, x: stream.tap(p, i, x)))(params, x)
    with pytest.warns(UserWarning, match="2 previews failed; the first: OSError.*disk full"):
        stream.close()
    assert len(seen) == 2
    np.testing.assert_array_equal(result, jax.jit(sample)(x))
    # A sampler compiled with a stream runs on after it is closed.
    jax.jit(lambda p, x: sample(x, lambda i, x: stream.tap(p, i, x)))(params, x)
    jax.effects_barrier()
    assert len(seen) == 2


def test_wrong_latents_and_options_are_refused(params):
    with PreviewStream(Gallery(), config=SHORT) as stream:
        with pytest.raises(ValueError, match="did you mean taesd3"):
            stream.tap(params, 0, np.zeros((1, 2, 2, 16), "f"))
        with pytest.raises(ValueError, match="decoder"):
            stream.tap({"encoder": {}}, 0, np.zeros((1, 2, 2, 4), "f"))
    with pytest.raises(ValueError, match="every must be a positive integer, got 0"):
        PreviewStream(Gallery(), config=SHORT, every=0)


def test_predict_x0():
    rng = np.random.default_rng(0)
    x0, noise = (rng.standard_normal((1, 3, 3, 4)).astype("f") for _ in range(2))
    alpha, sigma = np.float32(0.8), np.float32(0.6)
    noisy = alpha * x0 + sigma * noise
    close = {"rtol": 1e-5, "atol": 1e-5}
    got = predict_x0(noisy, noise, kind="epsilon", alpha=alpha, sigma=sigma)
    np.testing.assert_allclose(got, x0, **close)
    velocity = alpha * noise - sigma * x0
    got = predict_x0(noisy, velocity, kind="v", alpha=alpha, sigma=sigma)
    np.testing.assert_allclose(got, x0, **close)
    got = predict_x0(0.4 * x0 + 0.6 * noise, noise - x0, kind="flow", sigma=0.6)
    np.testing.assert_allclose(got, x0, **close)
    got = predict_x0(x0 + 7 * noise, noise, kind="epsilon", sigma=7.0)
    np.testing.assert_allclose(got, x0, **close)
    with pytest.raises(ValueError, match="kind must be"):
        predict_x0(noisy, noise, kind="x", sigma=1.0)


def test_reduced_previews(params):
    params = with_thumbnails(params, SHORT)
    gallery, z = Gallery(), jnp.asarray(latent(SHORT, (4, 2), n=2))
    with PreviewStream(gallery, config=SHORT, scale=1 / 4) as stream:
        jax.jit(lambda p, z: stream.tap(p, 0, z))(params, z)
        stream.tap(params, 1, z)
    expected = taesd_jax.decode(params, z[:1], config=SHORT, scale=1 / 4)
    for step in (0, 1):
        difference = gallery[step][0].astype(int) - to_uint8(np.asarray(expected)).astype(int)
        # Values at the middle between two levels may be rounded to either.
        assert np.abs(difference).max() <= 1
    with pytest.raises(ValueError, match="scale must be 1 or one of"):
        PreviewStream(gallery, config=SHORT, scale=1 / 3)
    stream = PreviewStream(gallery, config=SHORT, scale=1 / 2)
    with stream, pytest.raises(ValueError, match="no head for scale 1/2"):
        stream.tap({"decoder": params["decoder"]}, 0, z)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_between_chunks_on_a_mesh(params, kind):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
    z = jax.device_put(latent(SHORT, (3, 2), n=4), NamedSharding(mesh, PartitionSpec("batch")))
    gallery = Gallery()
    with PreviewStream(gallery, config=SHORT, max_images=2) as stream:
        stream.tap(jax.device_put(params, NamedSharding(mesh, PartitionSpec())), 0, z)
    assert gallery[0][0].shape == (2, 24, 16, 3)


def test_a_failing_consumer_keeps_little(params):
    def fail(step, pixels):
        raise SystemExit(step)

    stream = PreviewStream(fail, config=SHORT)
    for step in range(9):
        stream.tap(params, step, jnp.asarray(latent(SHORT, (1, 1))))
    with pytest.warns(UserWarning, match="9 previews failed"):
        stream.close()
    assert (stream.failed, len(stream.errors)) == (9, 4)


def test_a_closed_stream_counts_what_it_missed(params):
    gallery = Gallery()
    stream = PreviewStream(gallery, config=SHORT)
    run = jax.jit(lambda z: stream.tap(params, 0, z))
    stream.close()
    run(jnp.asarray(latent(SHORT, (1, 1))))
    jax.effects_barrier()
    assert (stream.dropped, gallery) == (1, {})


def test_the_consumer_is_closed_when_the_devices_fail(params, monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("a device failed")

    with PreviewStream(WriteAnimation(tmp_path / "x.gif"), config=SHORT) as other:
        other.tap(params, 0, jnp.asarray(latent(SHORT, (2, 2))))
        monkeypatch.setattr(jax, "effects_barrier", fail)
        with pytest.raises(RuntimeError, match="a device failed"):
            other.close()
        monkeypatch.undo()
    assert (tmp_path / "x.gif").exists()


def test_sigmas_of_examples_and_wrong_ones():
    x, output = latent(SHORT, (2, 2), n=4), latent(SHORT, (2, 2), n=4, seed=1)
    sigmas = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    got = predict_x0(jnp.asarray(x), jnp.asarray(output), kind="flow", sigma=sigmas)
    np.testing.assert_allclose(got, x - np.asarray(sigmas)[:, None, None, None] * output, atol=1e-6)
    with pytest.raises(ValueError, match="alpha and sigma must be scalars"):
        predict_x0(jnp.asarray(x), jnp.asarray(output), kind="flow", sigma=jnp.ones(3))

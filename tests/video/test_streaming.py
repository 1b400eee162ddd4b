"""Whole, in chunks, scanned and in steps: the same bits, and memory that does not grow."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from video_models import latents, narrow, random_params, video

from taesd_jax.video import (
    VIDEO_VARIANTS,
    decode_step,
    decode_video,
    encode_video,
    frame_indices,
    init_state,
)
from taesd_jax.video import advance as advance_module
from taesd_jax.video.functional import _decode
from taesd_jax.video.params import abstract_params

# One of each form: base, other rates of time, super, wide, the rules of H3 and CogVideoX.
FORMS = [
    "taew2_2_super",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("taew2_1", "taem1", "taeltx2_3_wide", "taeh3", "taecvx", "lighttaehy1_5")
    ),
]
# Of fewer channels XLA sums in an order that depends on the number of frames.
WIDE = {"taeltx2_3_wide": VIDEO_VARIANTS["taeltx2_3_wide"].replace(num_blocks=1)}
# Bytes: the counters of loops.
FLAT = 2**14


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())


@pytest.mark.parametrize("name", FORMS)
def test_chunks_and_steps_of_a_decode_give_the_same_bits(name):
    config = WIDE.get(name) or narrow(name)
    params, z = random_params(config), latents(config, 5)
    whole = decode_video(params, z, config=config)
    assert same(whole, decode_video(params, z, config=config, chunk=2))

    state, frames = init_state((1, 8, 12), config=config), []
    for i in range(5):
        state, new = decode_step(params, state, z[:, i : i + 1], config=config)
        frames.append(new)
    steps = jnp.concatenate(frames, axis=1)[:, frame_indices(5, config=config)]
    assert same(whole, steps)


@pytest.mark.parametrize("name", FORMS)
def test_chunks_of_an_encode_give_the_same_bits(name):
    config = WIDE.get(name) or narrow(name)
    params, x = random_params(config), video(config, 21, (8, 12))
    whole = encode_video(params, x, config=config)
    assert same(whole, encode_video(params, x, config=config, chunk=2))


@pytest.mark.slow
def test_a_step_gives_the_same_bits_outside_jit_and_in_a_users_scan():
    config = narrow("taew2_1")
    params, z = random_params(config), latents(config, 3)
    whole = decode_video(params, z, config=config)

    def step(state, latent):
        return decode_step(params, state, latent[None, None], config=config)

    state = init_state((1, 8, 12), config=config)
    _, frames = jax.jit(lambda s, z: jax.lax.scan(step, s, z))(state, z[0])
    frames = frames.reshape(1, -1, *frames.shape[3:])
    assert same(whole, frames[:, 3:])
    with jax.disable_jit():
        eager = decode_video(params, z, config=config)
    assert same(whole, eager)


@pytest.mark.slow
def test_a_zeroed_state_starts_one_session_of_a_batch_anew():
    config = narrow("taew2_1")
    params, z = random_params(config), latents(config, 4, n=2)
    state = init_state((2, 8, 12), config=config)
    state, _ = decode_step(params, state, z[:, :2], config=config)
    state = {name: leaf.at[1].set(0) for name, leaf in state.items()}
    _, frames = decode_step(params, state, z[:, 2:], config=config)
    assert same(frames[:1], decode_video(params, z[:1], config=config)[:, -8:])
    assert same(frames[1:, 3:], decode_video(params, z[1:, 2:], config=config))


@pytest.mark.slow
def test_half_precision_streams_too():
    config = narrow("taew2_1")
    params, z = random_params(config), latents(config, 4, dtype=jnp.bfloat16)
    whole = decode_video(params, z, config=config)
    assert whole.dtype == jnp.bfloat16
    assert same(whole, decode_video(params, z, config=config, chunk=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taew2_1", "taew2_2_super", "taem1"])
def test_frames_of_large_maps_run_one_by_one_with_the_same_bits(name, monkeypatch):
    # As many channels as published: of fewer XLA sums in an order that depends on the batch.
    config = narrow(name, encoder_channels=64)
    side = 128 // 2 ** (len(config.time_grow) - 1)  # of the map before the last upsample 128
    params, z = random_params(config), latents(config, 2, (side, side))
    sample = decode_video(params, z, config=config)
    x = jnp.clip(sample, -1, 1)
    encoded = encode_video(params, x, config=config)
    jax.clear_caches()
    monkeypatch.setattr(advance_module, "_LARGE_MAP", 2**40)
    assert same(sample, decode_video(params, z, config=config))
    assert same(encoded, encode_video(params, x, config=config))
    jax.clear_caches()


@pytest.mark.slow
def test_frames_of_large_maps_take_a_third_of_the_memory():
    config = VIDEO_VARIANTS["taew2_1"]
    params = abstract_params("decoder", config)
    sizes = []
    for side in (31, 32):  # maps of 124 and 128 pixels before the last upsample
        z = jax.ShapeDtypeStruct((1, 1, side, side, 16), jnp.float32)
        compiled = _decode.lower(params, z, config, 1, "float32", "uint8").compile()
        sizes.append(temporaries(compiled))
    assert sizes[1] < 0.4 * sizes[0]


def temporaries(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_of_a_chunked_decode_does_not_grow_with_its_length():
    config = narrow("taew2_1")
    params = random_params(config)["decoder"]
    sizes = {}
    for t in (8, 32):
        z = jax.ShapeDtypeStruct((1, t, 4, 4, 4), jnp.float32)
        # The trim of a result is left out: it is a copy, as large as the result.
        video = jax.eval_shape(lambda z: _decode(params, z, config, 1, "float32", "float32"), z)
        compiled = _decode.lower(params, z, config, 1, "float32", "float32").compile()
        sizes[t] = temporaries(compiled) - video.size * video.dtype.itemsize
    whole = _decode.lower(params, z, config, None, "float32", "float32").compile()
    assert sizes[32] - sizes[8] < FLAT
    assert temporaries(whole) > 4 * temporaries(compiled)


@pytest.mark.slow
def test_the_1x1_of_time_grow_is_done_before_the_upsample():
    config = VIDEO_VARIANTS["taew2_1"]
    params = abstract_params("decoder", config)
    z = jax.ShapeDtypeStruct((1, 1, 8, 8, 16), jnp.float32)
    flops = _decode.lower(params, z, config, 1, "float32", "float32").cost_analysis()["flops"]
    # Multiply-adds for a latent pixel, where zero padding saves some; 43.6e6 as published.
    assert flops / 2 / 64 < 33e6


@pytest.mark.slow
def test_gradients_reach_params_and_latents():
    config = narrow("taew2_1")
    params, z = random_params(config), latents(config, 2)

    def loss(params, z):
        return (decode_video(params, z, config=config, chunk=1) ** 2).mean()

    grads = jax.grad(loss, argnums=(0, 1))(params, z)
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves(grads[0]["decoder"]))
    assert np.abs(np.asarray(grads[1])).max() > 0


def test_numpy_inputs_may_be_changed_at_once():
    config = narrow("taew2_1")
    params, z = random_params(config), np.array(latents(config, 2))
    expected = decode_video(params, z.copy(), config=config)
    result = decode_video(params, z, config=config)
    z[:] = 0
    assert same(expected, result)


@pytest.mark.slow
def test_uint8_is_made_on_the_device():
    config = narrow("taew2_1")
    params, z = random_params(config), latents(config, 2)
    frames = decode_video(params, z, config=config)
    eight = decode_video(params, z, config=config, out_dtype="uint8")
    expected = np.round((np.clip(np.asarray(frames), -1, 1) + 1) * np.float32(127.5))
    assert eight.dtype == jnp.uint8
    assert np.array_equal(np.asarray(eight), expected.astype(np.uint8))


@pytest.mark.parametrize("name", ["taew2_1", "taew2_2_super", "taeltx2_3_wide"])
@pytest.mark.parametrize("component", ["decoder", "encoder"])
def test_on_gpus_a_video_stays_in_half_precision(component, name):
    config = narrow(name)
    params = {component: abstract_params(component, config)}
    side, run, shape = 8, decode_video, (1, 2, 8, 8, 4)
    if component == "encoder":
        side *= config.spatial_factor
        run, shape = encode_video, (1, 8, side, side, 3)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    traced = jax.jit(lambda p, x: run(p, x, config=config, chunk=1)).trace(params, x)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    results = re.findall(r"stablehlo\.convolution.*-> tensor<\S*x(\w+)>", text)
    assert len(results) >= 14
    assert set(results) == {"bf16"}
    assert not re.search(r"dot_general.*f32", text)

"""`AutoencoderTinyVideo`, frames as they come, and arguments that cannot be right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from video_models import latents, narrow, random_params, video

from taesd_jax.video import (
    VIDEO_VARIANTS,
    AutoencoderTinyVideo,
    VideoConfig,
    decode_step,
    decode_video,
    encode_video,
    init_state,
    init_video,
    iter_decode_frames,
    iter_encode_frames,
)

CONFIG = narrow("taew2_2_super")


@pytest.fixture(scope="module")
def vae():
    return AutoencoderTinyVideo(random_params(CONFIG), CONFIG)


def join(frames):
    return np.concatenate([np.asarray(part) for part in frames], axis=1)


def test_it_is_a_face_over_the_functions(vae):
    x = video(CONFIG, 5)
    z = vae.encode(x).latents
    assert np.array_equal(z, encode_video(vae.params, x, config=CONFIG, chunk=1))
    (sample,) = vae.decode(z, return_dict=False)
    assert sample.shape == x.shape
    assert np.array_equal(sample, decode_video(vae.params, z, config=CONFIG, chunk=1))


def test_it_is_a_pytree(vae):
    z = latents(CONFIG, 2, (1, 2))
    again = jax.tree.unflatten(jax.tree.structure(vae), jax.tree.leaves(vae))
    assert (again.config, again.chunk) == (vae.config, vae.chunk)
    jitted = jax.jit(lambda vae, z: vae.decode(z).sample)(vae, z)
    assert np.array_equal(jitted, vae.decode(z).sample)


def test_it_is_saved_and_loaded(vae, tmp_path):
    path = vae.save_pretrained(tmp_path / "model.safetensors")
    loaded = AutoencoderTinyVideo.from_pretrained(path, dtype="bfloat16", param_dtype="float16")
    assert loaded.config == CONFIG
    assert loaded.params["decoder"]["layers_0"]["kernel"].dtype == jnp.float16
    assert loaded.decode(latents(CONFIG, 1, (1, 2))).sample.dtype == jnp.bfloat16
    assert "4 latent channels, 4x16" in repr(loaded)


def test_a_missing_component_is_named(vae):
    decoder = AutoencoderTinyVideo({"decoder": vae.params["decoder"]}, CONFIG)
    with pytest.raises(ValueError, match="the encoder is not loaded"):
        decoder.encode(video(CONFIG, 1))


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("out_dtype", [None, "uint8"])
def test_frames_come_as_they_are_finished(vae, chunk, out_dtype):
    z = np.array(latents(CONFIG, 5, (8, 12)))
    whole = decode_video(vae.params, z, config=CONFIG, out_dtype=out_dtype)
    parts = iter_decode_frames(vae.params, z, config=CONFIG, chunk=chunk, out_dtype=out_dtype)
    parts = list(parts)
    assert [part.shape[1] for part in parts] == ([1, 4, 4, 4, 4] if chunk == 1 else [9, 8])
    assert np.array_equal(join(parts), whole)


@pytest.mark.parametrize("frames", [1, 4, 9, 39])
@pytest.mark.parametrize("name", ["taew2_1", "taeh3"])
def test_latents_come_as_frames_do(name, frames):
    config = narrow(name)
    params, x = random_params(config), video(config, frames, (8, 12))
    whole = encode_video(params, x, config=config, chunk=1)
    one_by_one = (np.array(x[:, i]) for i in range(frames))
    assert np.array_equal(join(iter_encode_frames(params, one_by_one, config=config)), whole)
    if frames == 9:
        one_by_one = (x[:, i] for i in range(frames))
        parts = iter_encode_frames(params, one_by_one, config=config, chunk=2)
        assert np.array_equal(join(parts), whole)
    with pytest.raises(ValueError, match="no frames"):
        next(iter_encode_frames(params, [], config=config))


@pytest.mark.parametrize(
    "name",
    [
        "taew2_2_super",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("taem1", "taeltx_2", "taeh3", "taecvx")
        ),
    ],
)
def test_a_seek_gives_the_frames_of_the_full_decode(name):
    config = narrow(name)
    params, z = random_params(config), latents(config, 9, (8, 12))
    assert config.context_latents < 4  # of one block a stage: the start is left out
    whole = np.asarray(decode_video(params, z, config=config, chunk=1))
    for start in (0, 1, whole.shape[1] // 2, whole.shape[1] - 5, whole.shape[1] - 1):
        frames = list(iter_decode_frames(params, z, config=config, start=start))
        assert np.array_equal(join(frames), whole[:, start:])
    assert len(frames) == 1
    for start in (-1, whole.shape[1]):
        with pytest.raises(ValueError, match="start"):
            iter_decode_frames(params, z, config=config, start=start)


def test_the_memory_reaches_as_far_as_said():
    config = narrow("taew2_2_super")
    params, z = random_params(config), latents(config, 6, (8, 12))
    context = config.context_latents
    last = decode_video(params, z, config=config, chunk=1)[:, -4:]
    shorter = decode_video(params, z[:, 6 - context :], config=config, chunk=1)[:, -4:]
    assert not np.array_equal(last, shorter)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 3, 2, 2), "NCTHW"),
        ((1, 3, 4, 2, 2), "NTCHW"),
        ((3, 2, 2, 4), r"x\[None\]"),
        ((1, 3, 2, 2, 5), "got shape"),
        ((1, 0, 2, 2, 4), "empty"),
    ],
)
def test_latents_of_another_shape(vae, shape, message):
    with pytest.raises(ValueError, match=message):
        vae.decode(np.zeros(shape, np.float32))


def test_other_arguments(vae):
    z = latents(CONFIG, 1, (1, 2))
    with pytest.raises(TypeError, match="floating point"):
        vae.encode(np.zeros((1, 1, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"multiples of 16, got 16 and 20.*16 and 32"):
        vae.encode(np.zeros((1, 1, 16, 20, 3), np.float32))
    with pytest.raises(ValueError, match="chunk"):
        decode_video(vae.params, z, config=CONFIG, chunk=0)
    with pytest.raises(ValueError, match="decoder params do not fit"):
        decode_video(init_params_of_taew2_1(), z, config=CONFIG)
    with pytest.raises(TypeError, match="VideoConfig"):
        decode_video(vae.params, z, config=None)
    with pytest.raises(ValueError, match=r"init_state\(\(1, 1, 2\)"):
        decode_step(vae.params, init_state((1, 2, 2), config=CONFIG), z, config=CONFIG)


def init_params_of_taew2_1():
    return jax.eval_shape(
        lambda: init_video(
            jax.random.key(0), config=VIDEO_VARIANTS["taew2_1"].replace(latent_channels=4)
        )
    )


def test_random_params_fit():
    params = init_video(jax.random.key(0), config=CONFIG)
    z = latents(CONFIG, 1, (1, 2))
    video = jax.eval_shape(lambda z: decode_video(params, z, config=CONFIG), z)
    assert video.shape == (1, 1, 16, 32, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_channels": 0}, "latent_channels"),
        ({"time_grow": (2, 2)}, "for each stage"),
        ({"time_grow": (2, 2, 2)}, "change time alike"),
        ({"block_style": "wide", "decoder_channels": (96, 64, 64, 64)}, "group_channels"),
        ({"act_fn": "gelu"}, "relu"),
        ({"frame_rule": "all"}, "causal"),
        ({"signed_images": 1}, "signed_images"),
    ],
)
def test_configs_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        VideoConfig(**fields)


def test_configs_survive_json():
    for config in VIDEO_VARIANTS.values():
        assert VideoConfig.from_dict(config.to_dict()) == config

"""Counts of frames and latents, and which frames belong to a video."""

import jax
import pytest
from video_models import narrow

from taesd_jax.video import VIDEO_VARIANTS, decode_video, encode_video, num_frames, num_latents
from taesd_jax.video.params import abstract_params

LENGTHS = range(1, 21)


def decoded(name, t):
    """Return the published rule's count of frames."""
    config = VIDEO_VARIANTS[name]
    if name == "taecvx" and t % 2 == 0:
        return 4 * t
    if name == "taeh3":  # 17 of every 20 frames, of which the last may be fewer
        return 17 * (t // 5) + max(0, 4 * (t % 5) - 3)
    return config.time_factor * (t - 1) + 1


@pytest.mark.parametrize("name", VIDEO_VARIANTS)
def test_counts_are_the_published_rules(name):
    config = VIDEO_VARIANTS[name]
    factor = config.time_factor
    for t in LENGTHS:
        assert num_frames(t, config=config) == decoded(name, t)
        encoded = -(-t // 17) * 5 - 3 if name == "taeh3" else -(-t // factor)
        assert num_latents(t, config=config) == encoded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taew2_1", "taem1", "taeltx_2", "taecvx", "taeh3"])
def test_results_have_the_counts(name):
    config = narrow(name)
    params = {part: abstract_params(part, config) for part in ("encoder", "decoder")}
    for t in (1, 2, 5, 6, 17, 20):
        z = jax.ShapeDtypeStruct((1, t, 1, 1, 4), "float32")
        video = jax.eval_shape(lambda z: decode_video(params, z, config=config, chunk=1), z)
        assert video.shape[1] == num_frames(t, config=config)
        side = config.spatial_factor
        x = jax.ShapeDtypeStruct((1, t, side, side, 3), "float32")
        latents = jax.eval_shape(lambda x: encode_video(params, x, config=config, chunk=1), x)
        assert latents.shape[1] == num_latents(t, config=config)


@pytest.mark.parametrize("clips", [0, 1, 2])
def test_h3s_own_lengths_come_back(clips):
    config = VIDEO_VARIANTS["taeh3"]
    frames, latents = 17 * clips + 5, 5 * clips + 2
    assert num_latents(frames, config=config) == latents
    assert num_frames(latents, config=config) == frames

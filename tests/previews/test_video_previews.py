"""Previews of a sampler of videos: strips of frames, and animations."""

import jax
import numpy as np
import pytest
from PIL import Image
from video_models import latents, narrow, random_params

from taesd_jax.previews import PreviewStream, SaveFrames, WriteAnimation
from taesd_jax.video import decode_video

CONFIG = narrow("taew2_2_super")


def sample(z, tap=lambda step, z: None):
    def body(step, z):
        tap(step, z)
        return 0.9 * z

    return jax.lax.fori_loop(0, 3, body, z)


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


def test_a_compiled_sampler_shows_its_videos_and_keeps_its_bits(params):
    z, shown = latents(CONFIG, 2, (1, 2), n=3), {}
    with PreviewStream(shown.__setitem__, config=CONFIG, every=2, max_images=2) as stream:
        run = jax.jit(lambda params, z: sample(z, lambda i, z: stream.tap(params, i, z)))
        result = run(params, z)
    assert np.array_equal(result, jax.jit(sample)(z))
    assert sorted(shown) == [0, 2]
    expected = decode_video(params, z[:2], config=CONFIG, chunk=1, out_dtype="uint8")
    assert np.array_equal(shown[0], expected)
    assert shown[0].shape == (2, 5, 16, 32, 3)


def test_from_plain_python_into_a_strip(params, tmp_path):
    z = latents(CONFIG, 2, (1, 2))
    with PreviewStream(SaveFrames(tmp_path), config=CONFIG) as stream:
        stream.tap(params, 7, z)
    strip = np.asarray(Image.open(tmp_path / "step_00007.png"))
    frames = decode_video(params, z, config=CONFIG, chunk=1, out_dtype="uint8")[0]
    assert np.array_equal(strip, np.concatenate(list(np.asarray(frames)), axis=1))


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_the_animation_plays_the_frames_of_one_step_after_the_other(tmp_path, suffix):
    write = WriteAnimation(tmp_path / f"a{suffix}")
    for step in (1, 0):
        grey = 100 * step + 20 * np.arange(3, dtype=np.uint8)
        write(step, np.broadcast_to(grey[None, :, None, None, None], (2, 3, 16, 16, 3)))
    write.close()
    with Image.open(tmp_path / f"a{suffix}") as animation:
        assert (animation.n_frames, animation.size) == (6, (32, 16))
        means = []
        for i in range(6):
            animation.seek(i)
            means.append(np.asarray(animation.convert("RGB")).mean())
    assert np.allclose(means, [0, 20, 40, 100, 120, 140], atol=2)  # .webp is lossy


def test_wrong_arguments(params):
    with pytest.raises(ValueError, match="scale must be 1"):
        PreviewStream(print, config=CONFIG, scale=1 / 8)
    with PreviewStream(print, config=CONFIG) as stream:
        z = latents(CONFIG, 2, (1, 2))[0]
        with pytest.raises(ValueError, match=r"\(n, t, h, w, 4\)"):
            stream.tap(params, 0, z)

"""Every variant against PyTorch, by its published names, with random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from taesd_jax.video import VIDEO_VARIANTS, decode_video, encode_video
from taesd_jax.video.tensors import from_tensors

torch = pytest.importorskip("torch")
TorchVideo = pytest.importorskip("taesd_jax.convert.video_modules").TorchVideo

pytestmark = [pytest.mark.slow, pytest.mark.oracle]

# Of the largest value: sums of some thousand products, some twenty convolutions deep.
FLOAT32 = 2e-5
# PyTorch's own error in bfloat16 against float32, times this.
BFLOAT16 = 1.5


def model_of(name):
    """Return a reference whose activations keep their size, and our params of its weights."""
    torch.manual_seed(0)
    model = TorchVideo(name).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 4:
                weight.normal_(std=weight[0].numel() ** -0.5)
    tensors = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    return model, from_tensors(tensors, config=VIDEO_VARIANTS[name])


def to_torch(x):
    return torch.from_numpy(np.array(np.moveaxis(x, -1, 2), order="C"))


def to_numpy(x):
    return np.moveaxis(x.float().numpy(), 2, -1)


def ranges(name, video, *, to_network):
    """Map between [-1, 1] and the network's own range."""
    if VIDEO_VARIANTS[name].signed_images:
        return video
    return (video + 1) / 2 if to_network else 2 * video - 1


def error(got, expected):
    return np.abs(np.asarray(got, np.float32) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", VIDEO_VARIANTS)
def test_decodes_equal_pytorchs(name):
    config = VIDEO_VARIANTS[name]
    model, params = model_of(name)
    latents = np.random.default_rng(0).standard_normal((1, 3, 2, 3, config.latent_channels))
    latents = latents.astype(np.float32)
    with torch.no_grad():
        expected = model.decode(to_torch(latents))
        steps = model.float().decode(to_torch(latents), chunk=1)
        half = model.bfloat16().decode(to_torch(latents).bfloat16())
    expected = ranges(name, to_numpy(expected), to_network=False)
    half = ranges(name, to_numpy(half), to_network=False)
    assert error(ranges(name, to_numpy(steps), to_network=False), expected) < FLOAT32
    got = decode_video(params, latents, config=config, chunk=1)
    assert got.shape == expected.shape
    assert error(got, expected) < FLOAT32
    got = decode_video(params, jnp.asarray(latents, jnp.bfloat16), config=config, chunk=1)
    assert (
        np.abs(np.asarray(got, np.float32) - expected).mean()
        < BFLOAT16 * np.abs(half - expected).mean()
    )


@pytest.mark.parametrize("name", VIDEO_VARIANTS)
def test_encodes_equal_pytorchs(name):
    config = VIDEO_VARIANTS[name]
    model, params = model_of(name)
    side = config.spatial_factor
    video = np.random.default_rng(0).uniform(-1, 1, (1, 7, side, 2 * side, 3)).astype(np.float32)
    network = to_torch(ranges(name, video, to_network=True))
    with torch.no_grad():
        expected = to_numpy(model.encode(network))
        half = to_numpy(model.bfloat16().encode(network.bfloat16()))
    got = encode_video(params, video, config=config, chunk=1)
    assert got.shape == expected.shape
    assert error(got, expected) < FLOAT32
    got = encode_video(params, jnp.asarray(video, jnp.bfloat16), config=config, chunk=1)
    assert (
        np.abs(np.asarray(got, np.float32) - expected).mean()
        < BFLOAT16 * np.abs(half - expected).mean()
    )

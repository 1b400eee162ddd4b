"""What MaxDiffusion's Wan pipelines read and call of their VAE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from video_models import latents, narrow, random_params, video

from taesd_jax.video import AutoencoderTinyVideo, WanVAE

# Little to compile; the pipelines' own forms do not depend on the style of the blocks.
CONFIG = narrow("taew2_2_super")


@pytest.fixture(scope="module")
def tiny():
    return AutoencoderTinyVideo(random_params(CONFIG), CONFIG)


@pytest.fixture(scope="module")
def vae(tiny):
    return WanVAE(tiny)


def test_what_pipelines_read(vae):
    assert 2 ** sum(vae.temperal_downsample) == CONFIG.time_factor
    assert vae.temperal_downsample == (False, True, True)
    assert (vae.z_dim, vae.dtype) == (4, jnp.float32)
    assert np.array(vae.latents_mean).shape == np.array(vae.latents_std).shape == (4,)
    for component in (vae.encoder, vae.decoder):  # AutoencoderKLWanCache walks them
        assert list(nnx.iter_graph([component]))


def test_a_decode_is_the_tiny_models_clipped(tiny, vae):
    z = latents(CONFIG, 2, (1, 2))
    expected = jnp.clip(tiny.decode(3 * z).sample, -1, 1)
    sample = vae.decode(3 * z, object(), return_dict=False)[0]
    assert np.array_equal(sample, expected)
    assert np.array_equal(vae.decode(jnp.moveaxis(3 * z, -1, 1)).sample, expected)


def test_an_encode_is_the_tiny_models(tiny, vae):
    x = video(CONFIG, 5)
    expected = tiny.encode(x).latents
    assert np.array_equal(vae.encode(x, object())[0].mode(), expected)
    dist = vae.encode(jnp.moveaxis(x, -1, 1), return_dict=False)[0]
    assert np.array_equal(dist.sample(jax.random.key(0)), expected)


def test_it_is_split_placed_on_a_mesh_and_merged_inside_jit(tiny, vae):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("redundant", "vae_spatial"))
    graph, state = nnx.split(vae)
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    z = latents(CONFIG, 2, (2, 2), n=4)
    placed = jax.device_put(z, NamedSharding(mesh, PartitionSpec("redundant")))

    @jax.jit
    def decode(state, z):
        return nnx.merge(graph, state).decode(z, None, return_dict=False)[0]

    sample = decode(state, placed)
    expected = jnp.clip(tiny.decode(z).sample, -1, 1)
    assert sample.shape == (4, 5, 32, 32, 3)
    assert np.abs(np.asarray(sample - expected)).max() < 1e-5  # float32, in another order


def test_params_can_be_cast_and_the_dtype_is_the_modules(tiny):
    vae = WanVAE(tiny, dtype="bfloat16")
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(vae, nnx.Param))
    nnx.update(vae, state)
    assert vae.decode(latents(CONFIG, 1, (1, 2))).sample.dtype == jnp.bfloat16


def test_both_components_are_needed(tiny):
    decoder = AutoencoderTinyVideo({"decoder": tiny.params["decoder"]}, CONFIG)
    with pytest.raises(ValueError, match="encoder"):
        WanVAE(decoder)

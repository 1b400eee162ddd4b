"""What MaxDiffusion's Wan and LTX-2 pipelines read and call of their VAEs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from video_models import latents, narrow, random_params, video

from taesd_jax.video import LTX2VAE, AutoencoderTinyVideo, WanVAE

# Little to compile; the pipelines' own forms do not depend on the style of the blocks.
CONFIG = narrow("taew2_2_super", patch_size=1)
LTX2 = CONFIG.replace(patch_size=4, time_pool=(2, 2, 2), time_grow=(2, 2, 2))
# float32, summed in another order.
REORDERED = 1e-5


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
    assert sample.shape == (4, 5, 16, 16, 3)
    assert np.abs(np.asarray(sample - expected)).max() < REORDERED


def test_params_can_be_cast_and_the_dtype_is_the_modules(tiny):
    vae = WanVAE(tiny, dtype="bfloat16")
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(vae, nnx.Param))
    nnx.update(vae, state)
    assert vae.decode(latents(CONFIG, 1, (1, 2))).sample.dtype == jnp.bfloat16


def test_both_components_are_needed(tiny):
    decoder = AutoencoderTinyVideo({"decoder": tiny.params["decoder"]}, CONFIG)
    with pytest.raises(ValueError, match="encoder"):
        WanVAE(decoder)


def test_another_factor_is_refused(tiny):
    with pytest.raises(ValueError, match="4 frames and 8 pixels a latent.*4 and 16"):
        WanVAE(AutoencoderTinyVideo(tiny.params, CONFIG.replace(patch_size=2)))


@pytest.fixture(scope="module")
def tiny_ltx2():
    return AutoencoderTinyVideo(random_params(LTX2), LTX2)


# Pipelines read .value of variables, which flax has deprecated.
@pytest.mark.filterwarnings("ignore:'.value' access:DeprecationWarning")
def test_what_ltx2_pipelines_read_and_set(tiny_ltx2):
    vae = LTX2VAE(tiny_ltx2)
    assert (vae.spatial_compression_ratio, vae.temporal_compression_ratio) == (32, 8)
    assert vae.latents_mean.value.shape == vae.latents_std.value.shape == (4,)
    assert (vae.config.scaling_factor, vae.config.timestep_conditioning) == (1, False)
    assert (vae.config.spatial_compression_ratio, vae.dtype) == (32, jnp.float32)
    vae.use_slicing = vae.use_tiling = True
    sample = vae.decode(latents(LTX2, 2, (1, 2)), temb=None, return_dict=False)[0]
    assert sample.shape == (1, 9, 32, 64, 3)


def test_ltx2s_statistics_are_taken_back(tiny_ltx2):
    z, x = latents(LTX2, 2, (1, 2)), video(LTX2, 9)
    mean, std = jnp.arange(4.0), jnp.array([0.5, 1.0, 2.0, 4.0])  # powers of two: exact products
    vae = LTX2VAE(tiny_ltx2, latents_mean=mean, latents_std=std)
    mean, std = (values.reshape(1, 1, 1, 1, 4) for values in (mean, std))
    # What the pipeline does to latents before it decodes, in its order of axes.
    first = jnp.moveaxis(z * std / vae.config.scaling_factor + mean, -1, 1)
    expected = jnp.clip(tiny_ltx2.decode(z).sample, -1, 1)
    assert np.abs(vae.decode(jnp.moveaxis(first, 1, -1)).sample - expected).max() < REORDERED
    encoded = vae.encode(x).latent_dist.sample(jax.random.key(0))
    assert np.array_equal(encoded, tiny_ltx2.encode(x).latents * std + mean)
    with pytest.raises(ValueError, match=r"latents_std must be \(4,\)"):
        LTX2VAE(tiny_ltx2, latents_std=jnp.ones((1, 4)))


def test_ltx2s_pipeline_replicates_the_module_before_it_decodes(tiny_ltx2):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "context"))
    z = latents(LTX2, 2, (1, 2), n=2)
    placed = jax.device_put(z, NamedSharding(mesh, PartitionSpec("data")))
    replicated = NamedSharding(placed.sharding.mesh, PartitionSpec())
    placed = jax.lax.with_sharding_constraint(placed, replicated)
    graph, state = nnx.split(LTX2VAE(tiny_ltx2))
    vae = nnx.merge(
        graph,
        jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, replicated), state),
    )
    sample = vae.decode(placed.astype(vae.dtype), return_dict=False)[0]
    assert len(sample.sharding.device_set) == 8
    expected = jnp.clip(tiny_ltx2.decode(z).sample, -1, 1)
    assert np.abs(np.asarray(sample) - expected).max() < REORDERED


def test_other_factors_are_refused_for_ltx2(tiny):
    with pytest.raises(ValueError, match="8 frames and 32 pixels a latent.*4 and 8"):
        LTX2VAE(tiny)

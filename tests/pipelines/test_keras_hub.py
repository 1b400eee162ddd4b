"""keras-hub's own Stable Diffusion 3 tasks with a tiny autoencoder; they need keras-hub."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import ONE_BLOCK, ROUNDING, random_model

from taesd_jax import VARIANTS, AutoencoderTiny
from taesd_jax.pipelines.keras_hub import replace_vae

pytest.importorskip("keras_hub")
# Their promotions, and their warnings, are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = {name: np.ones((2, 5), "int32") for name in ("clip_l", "clip_g")}


@pytest.fixture(scope="module")
def keras_models():
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
        warnings.simplefilter("ignore")
        with jax.numpy_rank_promotion("allow"):
            import keras_hub

            yield keras_hub.models


@pytest.fixture(scope="module")
def backbone(keras_models):
    from keras_hub.src.models.clip.clip_text_encoder import CLIPTextEncoder
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    def clip(name, width, act):
        return CLIPTextEncoder(20, width, width, 2, 2, 2 * width, act, -2, name=name)

    widths = ([32] * 4, [1] * 4, [32] * 4, [1] * 4)
    return keras_models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=32,
        mmdit_num_layers=1,
        mmdit_num_heads=2,
        mmdit_position_size=192,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=VAEBackbone(*widths, sampler_method="mode", name="vae"),
        clip_l=clip("clip_l", 64, "quick_gelu"),
        clip_g=clip("clip_g", 128, "gelu"),
        image_shape=(64, 64, 3),
    )


@pytest.fixture
def vae():
    return AutoencoderTiny(*random_model(VARIANTS["taesd3"].replace(**ONE_BLOCK)))


def test_text_to_image_decodes_with_the_tiny_model(keras_models, backbone, vae):
    task = keras_models.StableDiffusion3TextToImage(backbone=backbone, preprocessor=None)
    noise = jax.random.normal(jax.random.key(0), (2, *task.latent_shape[1:]))
    backbone.configure_scheduler(2)
    call = (noise, (TOKENS, TOKENS), jnp.int32(2), jnp.float32(7.0))
    original = task.make_generate_function()(*call)
    seen = []
    replace_vae(task, vae)
    decode = task.backbone.decode_step
    task.backbone.decode_step = lambda z: (jax.debug.callback(seen.append, z), decode(z))[1]
    image = task.make_generate_function()(*call)
    jax.effects_barrier()
    assert image.shape == original.shape
    assert np.abs(np.asarray(image) - np.asarray(original)).max() > 0.1
    # Compiled as part of a larger program: the last bit may differ.
    np.testing.assert_allclose(image, vae.decode(seen[0]).sample, atol=ROUNDING, rtol=0)


def test_image_to_image_encodes_with_the_tiny_model(keras_models, backbone, vae):
    task = keras_models.StableDiffusion3ImageToImage(backbone=backbone, preprocessor=None)
    replace_vae(task, vae)
    images = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3), minval=-1, maxval=1)
    noise = jax.random.normal(jax.random.key(0), (2, *task.latent_shape[1:]))
    np.testing.assert_array_equal(
        task.backbone.encode_image_step(images), vae.encode(images).latents
    )
    backbone.configure_scheduler(2)
    call = (images, noise, (TOKENS, TOKENS), jnp.int32(1), jnp.int32(2), jnp.float32(7.0))
    image = task.make_generate_function()(*call)
    assert image.shape == (2, 64, 64, 3)


def test_refusals(keras_models, backbone, vae):
    with pytest.raises(TypeError, match="StableDiffusion3 tasks, got int"):
        replace_vae(1, vae)
    task = keras_models.StableDiffusion3TextToImage(backbone=backbone, preprocessor=None)
    other = AutoencoderTiny(*random_model(VARIANTS["taesd"].replace(**ONE_BLOCK)))
    with pytest.raises(ValueError, match=r"16 channels.* has 4.* use taesd3$"):
        replace_vae(task, other)
    flux = AutoencoderTiny(*random_model(VARIANTS["taef1"].replace(**ONE_BLOCK)))
    with pytest.raises(ValueError, match=r"scale 1\.5305.* use taesd3$"):
        replace_vae(task, flux)


def test_what_is_saved_is_the_backbone_as_it_was(keras_models, backbone, vae, tmp_path):
    task = keras_models.StableDiffusion3TextToImage(backbone=backbone, preprocessor=None)
    before, count = backbone.get_config(), backbone.count_params()
    replace_vae(task, vae)
    assert backbone.get_config() == before
    assert backbone.count_params() == count
    task.save_weights(tmp_path / "task.weights.h5")
    task.load_weights(tmp_path / "task.weights.h5")

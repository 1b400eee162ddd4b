"""Faults of other implementations, each with a test that ours does not have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import ROUNDING, SMALL, assemble, image, latent, named, random_model, random_states

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny, AutoencoderTinyConfig, CheckpointError

SIXTEEN = SMALL.replace(latent_channels=16)


def make(config):
    params, config = random_model(config)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config)


def test_1_sixteen_channels_encode_under_every_option():
    # diffusers: tiled encode hard-codes 4 latent channels and returns float32.
    vae = make(SIXTEEN)
    vae.enable_slicing()
    x = jnp.asarray(image(SIXTEEN, (16, 16), n=2), jnp.bfloat16)
    latents = vae.encode(x).latents
    assert (latents.shape, latents.dtype) == ((2, 2, 2, 16), jnp.bfloat16)


def test_2_no_tiles_that_blend():
    # diffusers: tiles overlap by 8 latents where 19 are needed, and the rest is blended.
    vae = make(SMALL)
    z = latent(SMALL, (12, 9))
    whole = vae.decode(z).sample
    vae.enable_tiling(8)
    np.testing.assert_allclose(vae.decode(z).sample, whole, atol=ROUNDING, rtol=0)
    # diffusers' tiled encode needs sizes divisible by 8.
    assert vae.encode(image(SMALL, (13, 22))).latents.shape == (1, 2, 3, 4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_3_the_8_bit_round_trip_keeps_the_dtype(dtype):
    # diffusers: forward turns bfloat16 into float32 and then fails.
    vae = make(SMALL)
    assert vae(jnp.asarray(image(SMALL, (16, 16)), dtype)).sample.dtype == jnp.dtype(dtype)


def test_4_gradient_checkpointing_keeps_the_image_scale():
    # diffusers: with it the encoder skips the step from [-1, 1] to [0, 1].
    vae = make(SMALL)
    x = image(SMALL, (16, 16))
    plain = vae.encode(x).latents
    vae.enable_gradient_checkpointing()
    np.testing.assert_array_equal(vae.encode(x).latents, plain)


def test_5_widths_may_differ_and_upcast_stays():
    # diffusers: non-uniform widths crash, force_upcast is overwritten, slices are single images.
    config = AutoencoderTinyConfig(
        encoder_block_out_channels=(8, 16, 16, 24),
        decoder_block_out_channels=(24, 16, 16, 8),
        force_upcast=True,
    )
    vae = make(config)
    assert vae.config.force_upcast is True
    vae.enable_slicing(2)
    assert vae(image(config, (16, 16), n=3)).sample.shape == (3, 16, 16, 3)


def test_the_architecture_is_not_guessed_from_a_name(tmp_path):
    params, config = random_model(SIXTEEN)
    taesd_jax.save(tmp_path / "taesd", params, config, format="original")
    assert taesd_jax.load(tmp_path / "taesd").config.latent_channels == 16


def test_no_weight_is_dropped_silently():
    # strict=False drops taef2's pool weights where the model has none, and the picture is wrong.
    tensors = named(random_states(VARIANTS["taef2"]), "diffusers")
    assert assemble(tensors).config.pool_channels == 256
    plain = {k: v for k, v in tensors.items() if ".pool." not in k}
    assert assemble(plain).config.pool_channels == 0
    mixed = {k: v for k, v in tensors.items() if "decoder" in k or ".pool." not in k}
    with pytest.raises(CheckpointError, match="belong to different models"):
        assemble(mixed)


def test_no_layout_is_guessed():
    # NCHW latents whose width equals the channel count pass as NHWC elsewhere, or the reverse.
    vae = make(SMALL)
    square = latent(SMALL, (4, 4))
    np.testing.assert_array_equal(
        vae.decode(square).sample, taesd_jax.decode(vae.params, square, config=SMALL)
    )
    with pytest.raises(ValueError, match="looks like NCHW"):
        vae.decode(square[:, :, :3].transpose(0, 3, 1, 2))


def test_inputs_are_never_written_to():
    # A preview elsewhere writes into the sampler's own latent.
    vae = make(SMALL)
    z = latent(SMALL, (2, 2))
    before = z.copy()
    vae.decode(z)
    np.testing.assert_array_equal(z, before)
    z = jnp.asarray(z)
    vae.decode(z)
    assert not z.is_deleted()

"""Latents raw, packed and patchified, against the pipelines' own arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest
from models import latent, random_model

import taesd_jax
from taesd_jax import (
    VARIANTS,
    from_vae_latents,
    pack_latents,
    patchify_latents,
    to_vae_latents,
    unpack_latents,
    unpatchify_latents,
)
from taesd_jax.model.validation import check_latent


@pytest.mark.parametrize(
    ("name", "scale", "shift"),
    [
        ("taesd", 0.18215, 0.0),
        ("taesdxl", 0.13025, 0.0),
        ("taesd3", 1.5305, 0.0609),
        ("taef1", 0.3611, 0.1159),
        ("taesana", 0.41407, 0.0),
    ],
)
def test_raw_latents(name, scale, shift):
    config = VARIANTS[name]
    raw = latent(config, (3, 5))
    model = from_vae_latents(raw, config=config)
    np.testing.assert_allclose(model, (raw.astype(float) - shift) * scale, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(to_vae_latents(model, config=config), raw, rtol=1e-6, atol=1e-6)
    assert from_vae_latents(jnp.asarray(raw, jnp.bfloat16), config=config).dtype == jnp.bfloat16


def test_flux2_has_no_such_numbers():
    for convert in (from_vae_latents, to_vae_latents):
        with pytest.raises(ValueError, match="taef2 has no raw_latent_scale"):
            convert(np.zeros((1, 2, 2, 32), "f"), config=VARIANTS["taef2"])


def test_flux1_tokens():
    z = latent(VARIANTS["taef1"], (6, 4), n=2)
    tokens = pack_latents(z)
    assert tokens.shape == (2, 6, 64)
    # The pipeline's own way, NCHW: (b, c, h/2, 2, w/2, 2) -> (b, h/2, w/2, c, 2, 2).
    expected = z.transpose(0, 3, 1, 2).reshape(2, 16, 3, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5)
    np.testing.assert_array_equal(tokens, expected.reshape(2, 6, 64))
    np.testing.assert_array_equal(unpack_latents(tokens, size=(6, 4)), z)


def test_flux2_patches():
    patches = latent(VARIANTS["taef2"].replace(latent_channels=128), (3, 2))
    # The pipeline's own way, NCHW: (b, c, 2, 2, h, w) -> (b, c, h, 2, w, 2).
    nchw = patches.transpose(0, 3, 1, 2).reshape(1, 32, 2, 2, 3, 2).transpose(0, 1, 4, 2, 5, 3)
    expected = nchw.reshape(1, 32, 6, 4).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(unpatchify_latents(patches), expected)
    np.testing.assert_array_equal(patchify_latents(expected), patches)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="even sides"):
        pack_latents(np.zeros((1, 3, 4, 16), "f"))
    with pytest.raises(ValueError, match=r"4x4 latents must be \(n, 2 \* 2, 4z\)"):
        unpack_latents(np.zeros((1, 6, 64), "f"), size=(4, 4))
    with pytest.raises(ValueError, match="4z"):
        unpatchify_latents(np.zeros((1, 3, 4, 30), "f"))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "taef1",
            (1, 6, 64),
            r"unpack tokens with taesd_jax\.unpack_latents\(tokens, size=\(h, w\)\)",
        ),
        ("taef1", (16, 6, 64), r"if these are tokens, .*; if it is one \(z, h, w\)"),
        ("taef2", (1, 6, 128), "unpack tokens"),
        ("taef2", (1, 3, 2, 128), r"unpatchify_latents\(patches\)"),
        ("taef2", (1, 128, 3, 2), r"unpatchify_latents\(patches.transpose\(0, 2, 3, 1\)\)"),
    ],
)
def test_the_wrong_form_is_refused(name, shape, message):
    params, config = random_model(VARIANTS[name])
    with pytest.raises(ValueError, match=message):
        taesd_jax.decode(params, np.zeros(shape, "f"), config=config)


def test_patches_are_named_whatever_their_size():
    # As many rows as a latent has channels: FLUX.2 at 512x512.
    with pytest.raises(ValueError, match=r"if it is NCHW.*if these are patches"):
        check_latent(np.zeros((1, 32, 32, 128), np.float32), VARIANTS["taef2"])
    with pytest.raises(ValueError, match=r"must be \(n, h, w, 16\), got shape \(1, 64, 128\)$"):
        check_latent(np.zeros((1, 64, 128), np.float32), VARIANTS["taef1"])


@pytest.mark.parametrize("size", [(0, 0), (-4, -6), (4.0, 6)])
def test_sizes_are_positive_integers(size):
    error = TypeError if isinstance(size[0], float) else ValueError
    with pytest.raises(error, match="a side in size must be a positive integer"):
        unpack_latents(np.zeros((1, 6, 64), np.float32), size=size)


def test_sizes_may_be_numpys():
    size = tuple(np.array([4, 6]))
    assert unpack_latents(np.zeros((1, 6, 64), np.float32), size=size).shape == (1, 4, 6, 16)

"""Published weights on real photographs, against diffusers and against the plain reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import same

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny
from taesd_jax.io import pad_image, psnr, to_uint8
from taesd_jax.model.layers import COMPONENTS

torch = pytest.importorskip("torch")
reference = pytest.importorskip("reference")
to_numpy, to_torch = reference.to_numpy, reference.to_torch
convert = pytest.importorskip("taesd_jax.convert")

pytestmark = [pytest.mark.slow, pytest.mark.oracle, pytest.mark.weights]

# The promise for [-1, 1] images in float32; latents reach about 10, so theirs is by scale.
FLOAT32 = 5e-5
# PyTorch's own error in bfloat16 against float32, times this.
BFLOAT16 = 1.2
# Rounding to 8 bits hides differences of 1e-5.
PSNR = 0.05

BOTH = ("taesd", "taesdxl", "taesd3", "taef1", "taef2")
DIFFUSERS = BOTH[:4]


def load(published, name):
    if name in ("taef2", "taesana"):
        return convert.load_pth(published / name)
    return taesd_jax.load(published / name)


@pytest.fixture(scope="module")
def models(published):
    """Load each model once: params and PyTorch states in float32, and the config."""
    cache = {}

    def get(name):
        if name not in cache:
            params, config, _ = load(published, name)
            params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
            states = {
                component: convert.to_torch(
                    {component: params[component]}, config, format="original"
                )
                for component in COMPONENTS
                if component in params
            }
            cache[name] = params, config, states
        return cache[name]

    return get


@pytest.fixture(scope="module")
def crop(photos):
    """A piece of a photograph whose sides 8 does not divide."""
    return photos["astronaut"][20:179, 130:331][None]


def test_labels_and_parameter_counts(published):
    for name in (*BOTH, "taesana"):
        _, config, format = load(published, name)
        assert (config.variant, format) == (name, "original")
        assert config.architecture == VARIANTS[name].architecture
    assert set(load(published, "taesana").params) == {"encoder"}


@pytest.mark.parametrize("name", [*BOTH, "taesana"])
def test_float32_against_the_reference(models, crop, name):
    params, config, states = models(name)
    with torch.no_grad():
        expected = to_numpy(reference.encode(states["encoder"], to_torch(crop)))
        latent = taesd_jax.encode(params, crop, config=config)
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(latent, expected, atol=FLOAT32 * scale, rtol=0)
        if "decoder" in states:
            expected = to_numpy(reference.decode(states["decoder"], to_torch(latent)))
            image = taesd_jax.decode(params, latent, config=config)
            np.testing.assert_allclose(image, expected, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize("name", DIFFUSERS)
def test_float32_against_diffusers(models, crop, name, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    params, config, _ = models(name)
    taesd_jax.save(tmp_path, jax.tree.map(np.asarray, params), config)
    theirs = diffusers.AutoencoderTiny.from_pretrained(tmp_path)
    ours = AutoencoderTiny(params, config)
    with torch.no_grad():
        expected = to_numpy(theirs.encode(to_torch(crop)).latents)
        latent = ours.encode(crop).latents
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(latent, expected, atol=FLOAT32 * scale, rtol=0)
        expected = to_numpy(theirs.decode(to_torch(latent)).sample)
        np.testing.assert_allclose(ours.decode(latent).sample, expected, atol=FLOAT32, rtol=0)
        scaled = to_numpy(theirs.scale_latents(to_torch(latent)))
        np.testing.assert_allclose(ours.scale_latents(latent), scaled, atol=1e-6)
        # One 8-bit step of a latent may round the other way, so compare what most pixels show.
        expected = to_numpy(theirs(to_torch(crop)).sample)
        assert np.median(np.abs(ours(crop).sample - expected)) < FLOAT32


@pytest.mark.parametrize("name", [*BOTH, "taesana"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_bfloat16_is_as_good_as_pytorchs(models, crop, name, component):
    params, config, states = models(name)
    if component not in states:
        pytest.skip("taesana's decoder is not published here")
    with torch.no_grad():
        x = to_torch(crop[:, :103, :121])  # PyTorch takes its time in bfloat16 on a CPU
        if component == "decoder":
            x = reference.encode(states["encoder"], x)
        run = reference.encode if component == "encoder" else reference.decode
        x = x.bfloat16()
        truth = to_numpy(run(states[component], x.float()))
        low = {k: v.bfloat16() for k, v in states[component].items()}
        theirs = np.abs(to_numpy(run(low, x).float()) - truth)
    run = taesd_jax.encode if component == "encoder" else taesd_jax.decode
    ours = run(params, jnp.asarray(to_numpy(x.float()), jnp.bfloat16), config=config)
    ours = np.abs(np.asarray(ours, np.float32) - truth)
    assert ours.mean() <= BFLOAT16 * theirs.mean()
    assert np.sqrt((ours**2).mean()) <= BFLOAT16 * np.sqrt((theirs**2).mean())


@pytest.mark.parametrize("name", BOTH)
def test_psnr_of_a_round_trip_is_pytorchs(models, photos, name):
    params, config, states = models(name)
    vae = AutoencoderTiny(params, config)
    for photo in ("astronaut", "cat", "flower"):
        image = photos[photo][:165, :221]
        padded = pad_image(image, config.spatial_factor)[None]
        h, w, _ = image.shape
        with torch.no_grad():
            latent = reference.encode(states["encoder"], to_torch(padded))
            theirs = to_numpy(reference.decode(states["decoder"], latent))[0, :h, :w]
        ours = np.asarray(vae.decode(vae.encode(padded).latents).sample)[0, :h, :w]
        assert psnr(image, ours) == pytest.approx(psnr(image, theirs), abs=PSNR)
        difference = to_uint8(ours).astype(int) - to_uint8(theirs)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", BOTH)
def test_round_trips_of_published_files_return_the_same_bits(published, tmp_path, name):
    params, config, _ = load(published, name)
    for format in ("diffusers", "original", "comfyui", "flax"):
        if format == "diffusers" and name == "taef2":
            continue
        path = tmp_path / f"{format}.safetensors"
        taesd_jax.save(path, params, config, format=format)
        again = taesd_jax.load(path)
        assert same(again.params, params)
        assert again.config.variant == name
    convert.save_pth(tmp_path / name, params, config)
    assert same(convert.load_pth(tmp_path / name).params, params)

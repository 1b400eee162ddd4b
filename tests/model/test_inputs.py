"""What NumPy inputs hold is checked; every advice works when it is followed."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SHORT, image, latent, random_model, same

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny, Strips, Tiles
from taesd_jax.model.inputs import check_values, warn_of_scale
from taesd_jax.model.validation import check_image, check_latent
from taesd_jax.pipelines import FlaxAutoencoderTiny
from taesd_jax.previews import PreviewStream


@pytest.fixture(scope="module")
def vae():
    params, config = random_model(SHORT)
    return AutoencoderTiny(jax.tree.map(jnp.asarray, params), config)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("full_scale", "half"), [(255, 127.5), (65535, 32767.5)])
def test_images_of_integer_values_are_refused(vae, full_scale, half, dtype):
    # float16 ends at 65504.
    values = ((image(SHORT, (16, 16)) + 1) / 2 * 0.99 * full_scale).astype(dtype)
    with pytest.raises(ValueError, match=f"image must be in .* by {half:g} and subtract 1"):
        vae.encode(values)
    with pytest.raises(ValueError, match=r"image must be in \[-1, 1\]"):
        list(taesd_jax.iter_encode(vae.params, values, config=SHORT))
    with pytest.raises(ValueError, match=r"image must be in \[-1, 1\]"):
        vae.compile(values.shape, component="encoder", dtype=dtype)(vae, values)
    assert vae.encode(values / np.array(half, dtype) - np.array(1, dtype)).latents.shape[-1] == 4


def test_images_a_little_outside_and_broken_ones_are_images(vae):
    for value in (1.9, -1.9, np.nan, np.inf):
        x = image(SHORT, (16, 16))
        x[0, 0, 0, 0] = value
        assert vae.encode(x).latents.shape == (1, 2, 2, 4)
    with pytest.raises(ValueError, match="scale it to that range"):
        vae.encode(100 * image(SHORT, (16, 16)))
    with pytest.raises(ValueError, match="scale it to that range"):
        vae.encode(1e6 * (1 + image(SHORT, (16, 16))))


def test_arrays_on_a_device_are_not_waited_for(vae):
    assert vae.encode(jnp.asarray(100 * image(SHORT, (16, 16)))).latents.shape == (1, 2, 2, 4)


def test_values_beyond_float32_are_refused(vae):
    z = latent(SHORT, (4, 4)).astype(np.float64)
    z[0, 0, 0, 0] = 1e300
    with pytest.raises(ValueError, match="latent has values beyond float32"):
        vae.decode(z)
    with jax.enable_x64(True):
        check_values(z, "decoder")


def test_raw_latents_are_noticed(vae):
    raw = latent(SHORT, (8, 8)) / np.float32(0.18215)
    for run in (
        lambda: vae.decode(raw),
        lambda: taesd_jax.decode(vae.params, raw, config=SHORT, strategy=Tiles(4)),
        lambda: list(taesd_jax.iter_decode(vae.params, raw, config=SHORT)),
    ):
        with pytest.warns(UserWarning, match="from_vae_latents") as seen:
            run()
        assert len(seen) == 1
    config = SHORT.replace(raw_latent_scale=0.18215, raw_latent_shift=0.0)
    vae.decode(taesd_jax.from_vae_latents(raw, config=config))
    vae.decode(latent(SHORT, (8, 8)))  # noise


@pytest.mark.weights
def test_latents_of_published_models_are_not_raw(published, photos):
    images = [photo[:128, :128][None] for photo in photos.values()]
    images += [np.full((1, 128, 128, 3), value, np.float32) for value in (-1, 1)]
    for name in ("taesd", "taesdxl", "taesd3", "taef1"):
        vae = AutoencoderTiny.from_pretrained(published / name)
        for x in images:
            z = np.asarray(vae.encode(x).latents)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warn_of_scale(z)
            if name in ("taesd", "taesdxl") and x is not images[-1]:
                raw = np.asarray(taesd_jax.to_vae_latents(z, config=vae.config))
                with pytest.warns(UserWarning, match="from_vae_latents"):
                    warn_of_scale(raw)


def test_other_byte_orders(vae, tmp_path):
    params, config = random_model(SHORT)
    z, x = latent(SHORT, (8, 8)), image(SHORT, (64, 64))
    swapped = jax.tree.map(lambda p: p.astype(">f4"), params)
    big_z, big_x = z.astype(">f4"), x.astype(">f4")
    options = {"config": config}
    for strategy in (None, Strips(), Tiles(4)):
        want = taesd_jax.decode(params, z, strategy=strategy, **options)
        got = taesd_jax.decode(swapped, big_z, strategy=strategy, **options)
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(
        taesd_jax.encode(swapped, big_x, **options), taesd_jax.encode(params, x, **options)
    )
    got = np.concatenate(list(taesd_jax.iter_encode(swapped, big_x, **options)), axis=1)
    np.testing.assert_array_equal(
        got, np.concatenate(list(taesd_jax.iter_encode(params, x, **options)), axis=1)
    )
    wide = vae.decode(z.astype(">f8")).sample
    assert wide.dtype == jnp.float32
    np.testing.assert_array_equal(wide, vae.decode(z).sample)
    other = AutoencoderTiny(swapped, config)
    np.testing.assert_array_equal(other.decode(big_z).sample, vae.decode(z).sample)
    np.testing.assert_array_equal(vae.compile(z.shape)(other, big_z), vae.compile(z.shape)(vae, z))
    other.save_pretrained(tmp_path)
    assert same(taesd_jax.load(tmp_path).params, params)
    np.testing.assert_array_equal(vae.scale_latents(big_z), vae.scale_latents(z))
    np.testing.assert_array_equal(taesd_jax.pack_latents(big_z), taesd_jax.pack_latents(z))
    module, nchw = FlaxAutoencoderTiny(config), big_z.transpose(0, 3, 1, 2)
    got = module.apply({"params": swapped}, nchw, method="decode").sample
    np.testing.assert_array_equal(got.transpose(0, 2, 3, 1), vae.decode(z).sample)
    shown = {}
    with PreviewStream(shown.__setitem__, config=config) as stream:
        stream.tap(swapped, 0, big_z)
        jax.jit(lambda step: stream.tap(swapped, step, big_z))(1)
    for pixels in shown.values():
        np.testing.assert_array_equal(pixels, vae.decode(z, out_dtype="uint8").sample)
    assert sorted(shown) == [0, 1]


def test_transfers_are_explicit(vae, tmp_path):
    taesd_jax.save(tmp_path, random_model(SHORT)[0], SHORT)
    z, x = latent(SHORT, (8, 8)), image(SHORT, (64, 64))
    with jax.transfer_guard("disallow"):
        loaded = AutoencoderTiny.from_pretrained(tmp_path)
        loaded(x)
        loaded.encode(x)
        loaded.decode(z, out_dtype="uint8")
        loaded.enable_tiling(4)
        loaded(x)
        taesd_jax.decode(random_model(SHORT)[0], z, config=SHORT)


def test_a_model_is_no_static_argument(vae):
    z = jnp.asarray(latent(SHORT, (1, 1)))
    with pytest.raises(ValueError, match="a function that takes it"):
        jax.jit(lambda vae, z: vae.decode(z).sample, static_argnums=0)(vae, z)
    jax.jit(lambda vae, z: vae.decode(z).sample)(vae, z)


FITS = "transpose it with x.transpose(0, 2, 3, 1)"


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [(64, 64), (32, 32), (24, 40), (16, 16)])
@pytest.mark.parametrize("other", VARIANTS)
def test_advice_on_wrong_latents(name, other, size):
    config, z = VARIANTS[name], VARIANTS[other].latent_channels
    nhwc = np.zeros((1, *size, z), np.float32)
    nchw = nhwc.transpose(0, 3, 1, 2)
    if z != config.latent_channels:
        with pytest.raises(ValueError, match=f"did you mean .*{other}"):
            check_latent(nhwc, config)
    if size[-1] == config.latent_channels:
        return  # it cannot be told from NHWC
    with pytest.raises(ValueError, match="NCHW") as raised:
        check_latent(nchw, config)
    assert FITS in str(raised.value)
    if z == config.latent_channels:
        check_latent(nchw.transpose(0, 2, 3, 1), config)
        # Only what could be patches is called so.
        assert ("patches" in str(raised.value)) == (size[-1] == 4 * z != 16)
    else:
        assert other in str(raised.value)


@pytest.mark.parametrize("name", ["taesd3", "taef1", "taef2"])
def test_advice_on_patches(name):
    config = VARIANTS[name]
    z = latent(config, (48, 80))
    patches = np.asarray(taesd_jax.patchify_latents(z))
    with pytest.raises(ValueError, match=r"unpatchify_latents\(patches\)"):
        check_latent(patches, config)
    np.testing.assert_array_equal(taesd_jax.unpatchify_latents(patches), z)
    with pytest.raises(ValueError, match=r"unpatchify_latents\(patches.transpose\(0, 2, 3, 1\)\)"):
        check_latent(patches.transpose(0, 3, 1, 2), config)


def test_advice_on_single_images():
    for check, c in ((check_image, 3), (check_latent, 4)):
        x = np.zeros((24, 40, c), np.float32)
        with pytest.raises(ValueError, match=r"with x\[None\]$"):
            check(x, SHORT)
        with pytest.raises(ValueError, match=r"with x\.transpose\(1, 2, 0\)\[None\]$"):
            check(x.transpose(2, 0, 1), SHORT)
        check(x.transpose(2, 0, 1).transpose(1, 2, 0)[None], SHORT)

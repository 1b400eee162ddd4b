"""Thumbnails: what their heads compute, what they cost, and how they are fitted."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from models import SMALL, image, latent, random_model, with_thumbnails

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny, Full, Strips, Tiles
from taesd_jax.cli import main
from taesd_jax.cli.options import load_checkpoint
from taesd_jax.io import psnr, write_image
from taesd_jax.model.fitting import downsample
from taesd_jax.model.thumbnails import features
from taesd_jax.strategies.sharding import replicate, shard_images
from taesd_jax.weights.thumbnail_files import BUNDLED_FILE, read_thumbnails

SHORT = SMALL.replace(num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(2, 1, 2, 1))
THREE_STAGES = SMALL.replace(
    encoder_block_out_channels=(8, 8, 8),
    decoder_block_out_channels=(8, 8, 8),
    num_encoder_blocks=(1, 1, 1),
    num_decoder_blocks=(1, 1, 1),
)
POOLED = SHORT.replace(pool_channels=16)
# Sums of a few hundred float32 products in another order; results of about 1.
ROUNDING = 2e-5
# Results of about 1, each rounded to 8 bits of mantissa once more than their sum.
BFLOAT16 = 5e-2


@pytest.fixture(scope="module", params=[SHORT, POOLED], ids=["plain", "pooled"])
def model(request):
    params, config = random_model(request.param)
    return with_thumbnails(params, config), config


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4, 1 / 8])
def test_it_is_one_convolution_of_all_features(model, scale):
    params, config = model
    z = latent(config, (5, 3), n=2)
    parts = list(features(params["decoder"], jnp.asarray(z), config=config, scale=scale))
    assert len(parts) == 1 + {1 / 8: 2, 1 / 4: 1, 1 / 2: 2}[scale]
    head = params["thumbnails"][str(round(1 / scale))]
    want = lax.conv_general_dilated(
        jnp.concatenate(parts, axis=-1),
        head["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ) + head["bias"].reshape(1, 1, 1, 3)
    got = taesd_jax.decode(params, z, config=config, scale=scale)
    assert got.shape == (2, 40 * scale, 24 * scale, 3)
    np.testing.assert_allclose(got, want, atol=ROUNDING, rtol=0)


def test_the_class_the_transformations_and_dtypes():
    params, config = random_model(SHORT)
    params = with_thumbnails(params, config)
    vae = AutoencoderTiny(params, config)
    z = jnp.asarray(latent(config, (4, 2), n=2))
    want = taesd_jax.decode(params, z, config=config, scale=1 / 4)
    np.testing.assert_array_equal(vae.decode(z, scale=1 / 4).sample, want)
    np.testing.assert_array_equal(vae.decode(z, False, scale=1 / 4)[0], want)
    np.testing.assert_array_equal(vae.decode(z, scale=1).sample, vae.decode(z).sample)
    jitted = jax.jit(lambda vae, z: vae.decode(z, scale=1 / 4).sample)(vae, z)
    np.testing.assert_allclose(jitted, want, atol=ROUNDING, rtol=0)
    mapped = jax.vmap(lambda z: vae.decode(z[None], scale=1 / 4).sample[0])(z)
    np.testing.assert_allclose(mapped, want, atol=ROUNDING, rtol=0)
    gradient = jax.grad(lambda z: (vae.decode(z, scale=1 / 4).sample ** 2).sum())(z)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    low = vae.decode(z.astype(jnp.bfloat16), scale=1 / 4).sample
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(np.float32), want, atol=BFLOAT16, rtol=0)
    assert vae.compile((2, 4, 2, 4), scale=1 / 4)(vae, z).shape == want.shape
    options = {"config": config, "scale": 1 / 4, "strategy": Full(), "batch_size": 1}
    one_by_one = taesd_jax.decode(params, z, **options)
    np.testing.assert_allclose(one_by_one, want, atol=ROUNDING, rtol=0)


def test_rows_over_a_mesh(model):
    params, config = model
    mesh = jax.make_mesh((8,), ("rows",))
    z = latent(config, (16, 3))
    want = taesd_jax.decode(params, z, config=config, scale=1 / 2)
    where = shard_images(mesh, rows="rows")
    everywhere = jax.device_put(params, replicate(mesh))
    got = AutoencoderTiny(everywhere, config).decode(jax.device_put(z, where), scale=1 / 2).sample
    assert got.sharding.is_equivalent_to(where, 4)
    np.testing.assert_allclose(got, want, atol=ROUNDING, rtol=0)


def test_the_work_is_a_small_part():
    params, config = random_model(VARIANTS["taesd"])
    params = with_thumbnails(params, config)
    z = latent(config, (32, 32))

    def operations(run):
        return jax.jit(run).lower(params, z).compile().cost_analysis()["flops"]

    whole = operations(lambda p, z: taesd_jax.decode(p, z, config=config))
    for scale, most in ((1 / 2, 0.5), (1 / 8, 0.03)):
        part = operations(lambda p, z, s=scale: taesd_jax.decode(p, z, config=config, scale=s))
        assert part < most * whole


def test_refusals(model):
    params, config = model
    z = latent(config, (2, 2))
    for scale in (0.3, 2, 0, -1, "1/2", True, None, float("nan")):
        with pytest.raises(ValueError, match=r"scale must be 1 or one of \(1/2, 1/4, 1/8\)"):
            taesd_jax.decode(params, z, config=config, scale=scale)
    for strategy in (Strips(), Tiles()):
        with pytest.raises(ValueError, match=r"thumbnails run with strategy=Full\(\)"):
            taesd_jax.decode(params, z, config=config, scale=1 / 2, strategy=strategy)
    bare = {"decoder": params["decoder"]}
    with pytest.raises(ValueError, match="no head for scale 1/2.*add_thumbnails.*fit_thumbnails"):
        taesd_jax.decode(bare, z, config=config, scale=1 / 2)
    swapped = {**params, "thumbnails": {"2": params["thumbnails"]["4"]}}
    with pytest.raises(ValueError, match=r"head for scale 1/2 must.*24.*got.*16"):
        taesd_jax.decode(swapped, z, config=config, scale=1 / 2)


def test_a_fit_is_the_least_squares_solution():
    params, config = random_model(SHORT)
    pictures = [image(config, (128, 96), seed=seed)[0] for seed in range(5)]
    fit = taesd_jax.fit_thumbnails(params, pictures, pictures[:1], config=config)
    assert fit.psnr.keys() == {1 / 2, 1 / 4, 1 / 8}
    rows, targets = [], []
    for picture in pictures:
        z = taesd_jax.encode(params, picture[None], config=config)
        whole = taesd_jax.decode(params, z, config=config)
        parts = features(params["decoder"], z, config=config, scale=1 / 2)
        x = np.pad(np.concatenate(list(parts), axis=-1)[0], ((1, 1), (1, 1), (0, 0)))
        taps = [x[i : i + 64, j : j + 48].reshape(64 * 48, -1) for i in range(3) for j in range(3)]
        rows.append(np.concatenate([*taps, np.ones((64 * 48, 1), np.float32)], axis=1))
        targets.append(np.asarray(downsample(whole, 1 / 2)).reshape(-1, 3))
    a, b = np.concatenate(rows).astype(np.float64), np.concatenate(targets).astype(np.float64)
    best = np.linalg.lstsq(a, b)[0]
    found = np.concatenate(
        [fit.thumbnails["2"]["kernel"].reshape(-1, 3), fit.thumbnails["2"]["bias"].reshape(1, 3)]
    )
    least = np.mean((a @ best - b) ** 2)
    # The ridge may cost a little, the solution itself need not be unique.
    assert np.mean((a @ found - b) ** 2) <= 1.001 * least + 1e-7


def test_a_fit_needs_pixels():
    params, config = random_model(SHORT)
    with pytest.raises(ValueError, match=r"more or larger images: they have 0 pixels"):
        taesd_jax.fit_thumbnails(params, [], config=config)
    with pytest.raises(ValueError, match=r"they have 16 pixels at scale 1/2"):
        taesd_jax.fit_thumbnails(params, [image(config, (8, 8))[0]], config=config)


def test_images_to_fit_to_are_checked():
    params, config = random_model(SHORT)
    whole = image(config, (64, 64))[0]
    fit = functools.partial(taesd_jax.fit_thumbnails, params, config=config)
    with pytest.raises(TypeError, match="image must be floating point"):
        fit([(whole * 100).astype(np.uint8)])
    with pytest.raises(ValueError, match="NaN"):
        fit([np.where(whole > 0.9, np.nan, whole)])
    with pytest.raises(ValueError, match="at least 8 pixels"):
        fit([whole[:5]])


def test_the_command_fits_and_decodes(working_folder, capsys):
    params, config = random_model(THREE_STAGES)
    taesd_jax.save("tiny.safetensors", params, config, format="flax")
    for i in range(3):
        write_image(f"{i}.png", image(config, (320, 400), seed=i)[0])
    write_image("small.png", image(config, (3, 9))[0])
    Path("broken.png").write_bytes(b"no picture")
    fit = ["fit-thumbnails", "*.png", "--held-out", "2.png", "--model", "tiny.safetensors"]
    assert main([*fit, "--side", "240", "-o", "thumbnails.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert "skipped broken.png" in err
    assert "skipped small.png: smaller than 4 pixels" in err
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["tiny 1/2", "tiny 1/4"]
    assert all("% of the operations, " in line and line.endswith(")") for line in lines)
    entry = read_thumbnails("thumbnails.safetensors")["tiny"]
    assert entry.notes["held_out"] == ["2.png"]
    assert entry.notes["photographs"] == ["0.png", "1.png"]
    assert main([*fit, "--side", "240", "--name", "again", "-o", "thumbnails.safetensors"]) == 0
    assert read_thumbnails("thumbnails.safetensors").keys() == {"tiny", "again"}
    assert main([*fit, "--name", "v1.5", "-o", "thumbnails.safetensors"]) == 1
    assert "must not have a dot" in capsys.readouterr().err
    assert main(["fit-thumbnails", "2.png", *fit[2:], "-o", "thumbnails.safetensors"]) == 1
    assert "every image is held out" in capsys.readouterr().err
    assert read_thumbnails("thumbnails.safetensors").keys() == {"tiny", "again"}
    assert main(["encode", "2.png", "--model", "tiny.safetensors", "-o", "z.npz"]) == 0
    small = ["decode", "z.npz", "--model", "tiny.safetensors", "--scale", "1/4", "-o", "z.png"]
    assert main(small) == 1
    assert "no head for scale 1/4" in capsys.readouterr().err
    assert main([*small, "--thumbnails", "thumbnails.safetensors"]) == 0
    assert "100x80" in capsys.readouterr().out


# In dB: parts of two held-out photographs stand lower than the mean over all thirteen.
SLACK = 6


# The others differ in the number of latent channels alone.
@pytest.mark.weights
@pytest.mark.parametrize("name", ["taesd", "taesdxl", "taef2"])
def test_shipped_heads(published, photos, name):
    if name == "taef2":
        pytest.importorskip("torch")
    params, config, _ = load_checkpoint(str(published / name))
    vae = AutoencoderTiny(taesd_jax.add_thumbnails(params), config)
    notes = read_thumbnails(BUNDLED_FILE)[name].notes
    for photo in (photos["coffee"], photos["astronaut"]):
        latents = vae.encode(photo[None, :160, :160]).latents
        whole = vae.decode(latents).sample
        for scale in (1 / 2, 1 / 4, 1 / 8):
            small = np.asarray(vae.decode(latents, scale=scale).sample)[0]
            found = psnr(small, np.asarray(downsample(whole, scale))[0])
            assert found >= notes["psnr"][str(round(1 / scale))] - SLACK

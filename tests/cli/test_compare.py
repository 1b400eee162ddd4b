"""The command that compares models on images."""

import json

import jax
import numpy as np
import pytest

from taesd_jax import VARIANTS, AutoencoderTiny, cli
from taesd_jax.io import psnr, read_image, write_image
from taesd_jax.metrics import gmsd, sharpness, ssim


@pytest.fixture
def vae(working_folder, photos):
    """Write two images and two models; return the first model."""
    write_image("a.png", photos["cat"][:96, :120])
    write_image("b.png", photos["astronaut"][:200, :160])
    vae = AutoencoderTiny.init(jax.random.key(0), VARIANTS["taesd"])
    vae.save_pretrained("mine", format="original")
    AutoencoderTiny.init(jax.random.key(1), VARIANTS["taesd3"]).save_pretrained("other")
    return vae


@pytest.mark.slow
def test_models_are_measured_by_their_own_latents(vae, capsys):
    command = ["compare", "mine", "other", "--images", "a.png", "b.png"]
    assert cli.main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    figures = json.loads(out)
    assert figures["images"] == ["a.png", "b.png"]
    rows = [(row["decoder"], row["encoder"]) for row in figures["rows"]]
    assert rows == [("mine", "mine"), ("other", "other")]  # their latents are not alike
    figures_of_images = []
    for name in figures["images"]:
        image = read_image(name)[None]
        sample = vae.decode(vae.encode(image).latents).sample.clip(-1, 1)
        likeness = [metric(image, sample) for metric in (ssim, gmsd, sharpness)]
        figures_of_images.append([psnr(image[0], np.asarray(sample[0])), *map(float, likeness)])
    expected = np.mean(figures_of_images, axis=0)
    got = [figures["rows"][0][name] for name in ("psnr", "ssim", "gmsd", "sharpness")]
    assert got == pytest.approx(expected, abs=1e-3)


def test_the_first_models_latents_are_decoded_by_all_that_can(vae, capsys):
    vae.save_pretrained("again", format="flax")
    assert cli.main(["compare", "mine", "again", "--images", "a.png"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["mine", "mine"], ["again", "mine"], ["again", "again"]]
    assert rows[0][2:] == rows[1][2:] == rows[2][2:]
    assert cli.main(["compare", "mine", "--images", "a.png", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert f"{row['psnr']:.2f}" == rows[0][2]


def test_images_that_are_not_there_are_an_error(vae, capsys):
    assert cli.main(["compare", "mine", "other", "--images", "absent.png"]) == 1
    assert "absent.png" in capsys.readouterr().err
    assert cli.main(["compare", "mine", "--images", "absent.png", "a.png"]) == 1
    assert "PSNR" in capsys.readouterr().out

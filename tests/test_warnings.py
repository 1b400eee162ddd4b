"""Warnings point at the user's line, whatever of this library is between."""

import json

import numpy as np
import pytest
from models import SHORT, random_model

import taesd_jax
from taesd_jax.io import read_latent, write_latent


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("decode", "of the latents are beyond"),
        ("vae", "of the latents are beyond"),
        ("iterator", "of the latents are beyond"),
        ("config", "sampel"),
        ("load", "sampel"),
        ("latent", "another encoder"),
        ("images", "are one file"),
    ],
)
def test_a_warning_is_of_the_callers_line(working_folder, name, text):
    params, config = random_model(SHORT)
    large = np.full((1, 2, 2, 4), 9, np.float32)
    write_latent("z.npz", large, config=config, encoder_sha256="a")
    taesd_jax.save("d", params, config)
    fields = json.loads((working_folder / "d" / "config.json").read_text()) | {"sampel": 1}
    (working_folder / "d" / "config.json").write_text(json.dumps(fields))
    taesd_jax.write_image("a.png", np.zeros((2, 2, 3)))
    (working_folder / "b.png").symlink_to("a.png")
    calls = {
        "decode": lambda: taesd_jax.decode(params, large, config=config),
        "vae": lambda: taesd_jax.AutoencoderTiny(params, config).decode(large),
        "iterator": lambda: next(taesd_jax.iter_decode(params, large, config=config)),
        "config": lambda: taesd_jax.AutoencoderTinyConfig.from_dict(fields),
        "load": lambda: taesd_jax.AutoencoderTiny.from_pretrained("d"),
        "latent": lambda: read_latent("z.npz", config=config, encoder_sha256="b"),
        "images": lambda: taesd_jax.training.list_images(["a.png", "b.png"]),
    }
    with pytest.warns(UserWarning, match=text) as seen:
        calls[name]()
    assert [record.filename for record in seen] == [__file__]

"""Lists of images: folders, patterns, and what the command writes itself."""

from pathlib import Path

import numpy as np
import pytest
from models import SMALL, random_model

from taesd_jax import cli, save
from taesd_jax.errors import MediaFileError
from taesd_jax.io import write_image
from taesd_jax.io.listing import IMAGE_SUFFIXES, list_images


def test_lists_of_images(photographs, tmp_path):
    names = [path.name for path in list_images([photographs, photographs / "cat.png"])]
    assert names == ["astronaut.png", "cat.png", "coffee.png"]
    assert len(list_images([f"{photographs}/c*.png"])) == 2
    for source in (tmp_path, f"{tmp_path}/*.png"):
        with pytest.raises(MediaFileError, match="no images in"):
            list_images([source])
    with pytest.raises(MediaFileError, match="no such file or folder: '.*absent.png'"):
        list_images([tmp_path / "absent.png"])


def test_what_the_command_writes_is_left_out(working_folder):
    save("m.safetensors", *random_model(SMALL), format="flax")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.roundtrip.png"):  # whatever it is called, it is a photograph
        write_image(name, rng.uniform(-1, 1, (16, 16, 3)).astype("f4"))
    model = ["--model", "m.safetensors"]
    for command in (
        ["encode", "a.png", "-o", "a.latent.png"],
        ["decode", "a.latent.png", "-o", "decoded.jpg"],
        ["decode", "a.latent.png", "-o", "decoded.tif"],
        ["roundtrip", "a.png"],
        ["roundtrip", "a.png", "-o", "beside.webp"],
    ):
        assert cli.main([*command, *model]) == 0
    sheet = Path("run/decoder/samples/0000001.png")
    write_image(sheet, np.zeros((8, 8, 3), "f4"))
    (sheet.parents[1] / "recipe.json").write_text("{}")
    assert len([path for path in Path().rglob("*.*") if path.suffix in IMAGE_SUFFIXES]) == 8
    for source in (".", "**/*"):
        listed = [path for path in list_images([source]) if path.suffix in IMAGE_SUFFIXES]
        assert [path.name for path in listed] == ["a.png", "b.roundtrip.png"]
    assert list_images([sheet, "a.m.roundtrip.png"]) == [
        sheet,
        Path("a.m.roundtrip.png"),
    ]  # as named

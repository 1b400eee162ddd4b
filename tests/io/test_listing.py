"""Lists of images: folders, patterns, and what the command writes itself."""

import pytest

from taesd_jax.errors import MediaFileError
from taesd_jax.io.listing import list_images


def test_lists_of_images(photographs, tmp_path):
    names = [path.name for path in list_images([photographs, photographs / "cat.png"])]
    assert names == ["astronaut.png", "cat.png", "coffee.png"]
    assert len(list_images([f"{photographs}/c*.png"])) == 2
    for source in (tmp_path, f"{tmp_path}/*.png"):
        with pytest.raises(MediaFileError, match="no images in"):
            list_images([source])
    with pytest.raises(MediaFileError, match="no such file or folder: '.*absent.png'"):
        list_images([tmp_path / "absent.png"])


def test_what_the_command_writes_is_left_out(tmp_path):
    component = tmp_path / "run" / "decoder"
    (component / "samples").mkdir(parents=True)
    (component / "recipe.json").write_text("{}")
    names = ["a.roundtrip.png", "a.decoded.png", "a.decoded-0.png", "a.latent.png", "b.decoded.jpg"]
    sheet = component / "samples" / "0000001.png"
    results = [*(tmp_path / name for name in names), sheet]
    for path in (tmp_path / "a.png", tmp_path / "roundtrip.png", *results):
        path.touch()
    for source in (tmp_path, f"{tmp_path}/**/*.*g"):
        assert [path.name for path in list_images([source])] == ["a.png", "roundtrip.png"]
    assert list_images(results) == results  # named, they are meant

"""The examples of docs/video.md, run as they stand."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "video.md"


@pytest.mark.slow
def test_the_examples_of_the_page_run(working_folder, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["latents"].shape == (1, 2, 4, 6, 16)
    assert names["sample"].shape == (1, 5, 32, 48, 3)
    assert capsys.readouterr().out == "(1, 1, 32, 48, 3)\n(1, 4, 32, 48, 3)\n"
    assert sum(frames.shape[1] for frames in names["last"]) == 1


def test_the_table_has_every_variant():
    from taesd_jax.video import VIDEO_VARIANTS, num_frames

    rows = re.findall(r"^\| (`.+) \|$", PAGE.read_text(), re.M)
    listed = {}
    for row in rows:
        names, _, channels, factors, frames = row.split(" | ")
        for name in re.findall(r"`(\w+)`", names):
            listed[name] = (int(channels), *map(int, factors.split(" x ")), frames)
    assert listed.keys() == VIDEO_VARIANTS.keys()
    for name, (channels, time, space, frames) in listed.items():
        config = VIDEO_VARIANTS[name]
        expected = (config.latent_channels, config.time_factor, config.spatial_factor)
        assert (channels, time, space) == expected
        if name != "taeh3":
            factor, rest = map(int, re.search(r"(\d)t - (\d)", frames).groups())
            assert num_frames(5, config=config) == factor * 5 - rest

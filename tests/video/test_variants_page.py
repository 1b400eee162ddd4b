"""The table of docs/video.md."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "video.md"


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

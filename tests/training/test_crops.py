"""Images to train on: lists, crops and their colours."""

import numpy as np
import pytest

from taesd_jax.errors import MediaFileError
from taesd_jax.io import write_image
from taesd_jax.training import Recipe, list_images
from taesd_jax.training.crops import Crops, augment


def test_augmentation_keeps_grey_and_luma():
    rng = np.random.default_rng(0)
    image = rng.uniform(-0.1, 0.1, (8, 8, 3)).astype("f4")  # far from clipping
    luma = np.array([0.299, 0.587, 0.114], "f4")
    grey = np.repeat(image[:, :, :1], 3, axis=2)
    flipped = set()
    for _ in range(16):
        state = rng.bit_generator.state
        found = augment(rng, image, hue=0.3, saturation=0.5)
        flips = np.allclose(found @ luma, (image @ luma)[:, ::-1], atol=1e-3)
        assert flips or np.allclose(found @ luma, image @ luma, atol=1e-3)
        flipped.add(flips)
        rng.bit_generator.state = state
        same = augment(rng, grey, hue=0.3, saturation=0.5)
        assert np.allclose(same, grey[:, ::-1] if flips else grey, atol=1e-5)
    assert flipped == {True, False}


def test_no_augmentation_changes_nothing_but_the_side():
    image = np.random.default_rng(0).uniform(-1, 1, (8, 8, 3)).astype("f4")
    found = augment(np.random.default_rng(0), image, hue=0, saturation=0)
    assert any(np.allclose(found, x, atol=1e-6) for x in (image, image[:, ::-1]))


def test_crops_depend_on_their_number_and_the_seed_alone(photographs):
    images = list_images([photographs])
    one, other = (Crops(images, Recipe(crop_size=48, seed=3)) for _ in range(2))
    last = [one[i] for i in (7, 0, 2**30)]
    assert all((a == b).all() for a, b in zip(last, [other[i] for i in (7, 0, 2**30)], strict=True))
    assert last[0].shape == (48, 48, 3)
    assert last[0].dtype == np.uint8
    assert (last[0] != Crops(images, Recipe(crop_size=48, seed=4))[7]).any()


def test_a_crop_is_a_piece_of_its_image(photographs):
    (cat,) = list_images([photographs / "cat.png"])
    from skimage import data

    whole = data.cat()
    crop = Crops([cat], Recipe(crop_size=64, max_downscale=1, hue=0, saturation=0))[0]
    views = np.lib.stride_tricks.sliding_window_view(whole, (64, 64, 3))[:, :, 0]
    corners = views[:, :, 0, 0].astype("i2")
    for piece in (crop, crop[:, ::-1]):
        likely = np.argwhere(np.abs(corners - piece[0, 0]).max(-1) <= 1)
        if any(np.abs(views[i, j].astype("i2") - piece).max() <= 1 for i, j in likely):
            return
    raise AssertionError("the crop is nowhere in its image")


def test_the_busiest_candidate_is_taken(tmp_path):
    image = np.zeros((64, 512, 3), "f4")
    image[:, 256:] = np.random.default_rng(0).uniform(-1, 1, (64, 256, 3))
    write_image(tmp_path / "half.png", image)
    means = {}
    for candidates in (1, 8):
        recipe = Recipe(crop_size=32, max_downscale=1, crop_candidates=candidates)
        crops = Crops([tmp_path / "half.png"], recipe)
        means[candidates] = np.mean([crops[i].std() > 10 for i in range(24)])
    assert means[1] < 0.8
    assert means[8] == 1


def test_images_kept_in_memory_are_bounded(photographs):
    crops = Crops(list_images([photographs]), Recipe(crop_size=32), memory=1)
    for i in range(8):
        crops[i]
    assert len(crops._decoded) == 1


def test_bad_images_are_reported_and_skipped(photographs, tmp_path):
    (tmp_path / "broken.png").write_bytes((photographs / "cat.png").read_bytes()[:1000])
    (tmp_path / "text.jpg").write_text("no picture")
    write_image(tmp_path / "tiny.png", np.zeros((20, 90, 3), "f4"))
    images, recipe = list_images([tmp_path, photographs / "cat.png"]), Recipe(crop_size=48)
    crops = Crops(images, recipe)
    with pytest.warns(UserWarning, match="skipped") as record:
        list(map(crops.__getitem__, range(30)))
    said = sorted(str(warning.message) for warning in record)
    assert len(said) == 3
    assert any("90x20 is too small, need at least 48 pixels" in line for line in said)
    with (
        pytest.raises(MediaFileError, match="none of the 3 images can be used"),
        pytest.warns(UserWarning, match="skipped"),
    ):
        Crops(images[:3], recipe)[0]

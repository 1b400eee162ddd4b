"""Pictures of every kind, as pixels of the sizes that are asked for."""

import numpy as np
import pytest
from encoded_datasets import encoded, noise
from PIL import Image

from taesd_jax.datasets.pictures import Geometry, buckets, load_picture, mirror, square
from taesd_jax.errors import MediaFileError
from taesd_jax.io import pad_image, read_pixels

# Levels of 8 bits between a JPEG that was decoded small and one that was not: mean and largest.
DRAFT_MEAN, DRAFT_LARGEST = 1.5, 40
SHIFT = 8  # mean levels between stripes; a shift of up to half a pixel gives 27
EDGE = 3  # levels that resampling moves a smooth ramp by


def ramp(h, w):
    """Pixels whose red tells the column and whose green tells the row."""
    y, x = np.mgrid[:h, :w]
    return np.stack([255 * x // (w - 1), 255 * y // (h - 1), 0 * x], -1).astype(np.uint8)


def test_a_picture_of_the_right_size_keeps_its_pixels():
    pixels = noise((32, 32))
    picture = load_picture(encoded(pixels), "x", square(32, multiple=8))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture[1:] == ((32, 32), (0, 0, 32, 32))
    # Only cropped: neither resized.
    pixels = noise((32, 48))
    picture = load_picture(encoded(pixels), "x", square(32, multiple=8))
    np.testing.assert_array_equal(picture.pixels, pixels[:, 8:40])
    assert picture.crop == (0, 8, 32, 32)


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (40, 41), (2000, 600)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_crop_is_what_the_pixels_show(size, kind):
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    picture = load_picture(encoded(ramp(*size), kind, **options), "x", square(64, multiple=8))
    top, left, height, width = picture.crop
    assert picture.pixels.shape == (64, 64, 3)
    assert height == width == min(size)
    assert (top, left) == ((size[0] - height) // 2, (size[1] - width) // 2)
    for pixel, y, x in ((picture.pixels[0, 0], top, left),
                        (picture.pixels[-1, -1], top + height - 1, left + width - 1)):  # fmt: skip
        expected = [255 * x / (size[1] - 1), 255 * y / (size[0] - 1)]
        # Half a pixel of the result, and JPEG's losses.
        step = 255 * min(size) / 64 / np.array([size[1], size[0]])
        assert (np.abs(pixel[:2] - expected) < step + EDGE).all()


def test_a_turned_jpeg_that_is_decoded_small():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.fromarray(noise((20, 30))).resize((900, 600)))
    data = encoded(pixels, "JPEG", exif=exif)
    picture = load_picture(data, "x", square(64, multiple=8))
    assert picture.crop == (150, 0, 600, 600)  # it stands: 600 wide, 900 high
    whole = load_picture(encoded(np.rot90(pixels, -1), "PNG"), "x", square(64, multiple=8))
    difference = np.abs(picture.pixels.astype(int) - whole.pixels)
    assert difference.mean() < DRAFT_MEAN
    assert difference.max() < DRAFT_LARGEST


def test_buckets_have_about_the_area_and_the_nearest_is_taken():
    geometry = buckets(256, multiple=8)
    for height, width in geometry.sizes:
        assert height % 8 == width % 8 == 0
        assert 0.8 * 256**2 < height * width <= 256**2
        assert (width, height) in geometry.sizes
    assert (256, 256) in geometry.sizes
    for size, expected in (((300, 300), (256, 256)), ((100, 900), (160, 384)),
                           ((400, 300), (288, 224)), ((5, 1), (384, 160))):  # fmt: skip
        picture = load_picture(encoded(noise(size)), "x", geometry)
        assert picture.image_size == picture.pixels.shape[:2] == expected


def test_kept_sizes_are_padded_by_their_edges():
    pixels = noise((9, 17))
    picture = load_picture(encoded(pixels), "x", Geometry((), 8))
    assert picture.pixels.shape == (16, 24, 3)
    assert picture[1:] == ((9, 17), (0, 0, 9, 17))
    np.testing.assert_array_equal(picture.pixels[:9, :17], pixels)
    np.testing.assert_array_equal(picture.pixels[9:, :17], np.tile(pixels[8:], (7, 1, 1)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2)])
def test_thin_pictures(size):
    for geometry in (square(64, multiple=8), buckets(64, multiple=8)):
        picture = load_picture(encoded(noise(size)), "x", geometry)
        assert picture.pixels.shape[:2] in geometry.sizes


def test_the_library_reads_them(tmp_path):
    rgba = np.dstack([noise((32, 32)), noise((32, 32), 1)[..., :1]])
    cases = {"rgba": encoded(rgba), "grey": encoded(noise((32, 32))[..., 0])}
    cases["cmyk"] = encoded(noise((32, 32)), "JPEG")
    grey16 = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    cases["16 bits"] = encoded(grey16)
    frames = [Image.fromarray(noise((32, 32), i)) for i in range(3)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    cases["animation"] = (tmp_path / "x.gif").read_bytes()
    Image.fromarray(noise((32, 32))).convert("CMYK").save(tmp_path / "x.jpg")
    cases["cmyk"] = (tmp_path / "x.jpg").read_bytes()
    for name, data in cases.items():
        (tmp_path / "file").write_bytes(data)
        got = load_picture(data, name, square(32, multiple=8)).pixels
        np.testing.assert_array_equal(got, read_pixels(tmp_path / "file"), err_msg=name)


def test_what_is_no_picture():
    for data in (b"", b"junk", encoded(noise())[:500]):
        with pytest.raises((MediaFileError, OSError)):
            load_picture(data, "x", square(32, multiple=8))
    with pytest.raises(MediaFileError, match="x: cannot be read: cannot identify"):
        load_picture(b"junk", "x", square(32, multiple=8))


def test_sizes_that_the_model_cannot_have():
    with pytest.raises(ValueError, match="8 divides, such as 496, got 500"):
        square(500, multiple=8)
    with pytest.raises(ValueError, match="32 divides"):
        buckets(500, multiple=32)


def test_a_mirrored_picture_is_padded_behind_its_own_edge():
    pixels = noise((12, 13))
    picture = load_picture(encoded(pixels), "x", Geometry((), 8))
    expected = pad_image(pixels[:, ::-1], 8)
    np.testing.assert_array_equal(mirror(picture, 8), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8, 9])
def test_sides_are_those_of_the_upright_picture(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(noise((16, 40)), kind, exif=exif, **options)
    picture = load_picture(data, "x", Geometry((), 8))
    assert picture.image_size == picture.pixels.shape[:2]
    assert picture.image_size == ((40, 16) if 5 <= orientation <= 8 else (16, 40))


def test_a_jpeg_decoded_small_is_not_shifted():
    # 1025 pixels at 1/8 are 129, which is a little more than 1025 / 8.
    stripes = np.repeat(np.where(np.arange(1025) // 32 % 2, 255, 0)[None], 1025, 0)
    pixels = np.repeat(stripes[..., None], 3, -1).astype(np.uint8)
    small = load_picture(encoded(pixels, "JPEG", quality=95), "x", square(64, multiple=8))
    whole = load_picture(encoded(pixels), "x", square(64, multiple=8))
    difference = np.abs(small.pixels.astype(int) - whole.pixels)
    assert difference.mean() < SHIFT

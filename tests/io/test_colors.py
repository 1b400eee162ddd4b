"""Embedded colour profiles and unusual TIFF: the right colours, or a refusal."""

import struct
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from taesd_jax import MediaFileError
from taesd_jax.io import read_pixels
from taesd_jax.io.arrays import is_plain_tiff

# XYZ of the primaries, adapted to the white of profiles (D50), a column each.
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
# The gamma of sRGB as ICC's parametric curve of type 3.
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# Levels of 255 by which a transform in 8 bits may round.
ROUNDING = 1


def fixed(*values):
    """ICC's fixed-point numbers."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(primaries=None):
    """Build an ICC profile: of RGB with sRGB's gamma, or without primaries of linear grey."""
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    tags = {b"wtpt": white}
    if primaries is None:
        tags[b"kTRC"] = b"curv\0\0\0\0" + struct.pack(">I", 0) + bytes(4)
    else:
        for name, column in zip((b"r", b"g", b"b"), primaries.T, strict=True):
            tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*column)
            tags[name + b"TRC"] = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + fixed(*SRGB_CURVE)
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    space = b"GRAY" if primaries is None else b"RGB "
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(data), 0x04300000, b"mntr", space, b"XYZ ",
                       b"acsp")  # fmt: skip
    head = head.ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + data


def linear(levels):
    x = levels / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def encoded(light):
    light = np.clip(light, 0, 1)
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * curve).astype(int)


RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
FROM_P3 = encoded(linear(RGB) @ (np.linalg.inv(SRGB) @ DISPLAY_P3).T)


def read(path):
    return read_pixels(path).astype(int)


def grey(values):
    return np.repeat(values[:, :, None], 3, axis=2)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_a_profile_is_converted_to_srgb(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(RGB).save(path, icc_profile=profile(DISPLAY_P3), **options)
    assert np.abs(FROM_P3 - RGB).max() > 20  # or this test would show nothing
    assert np.abs(read(path) - FROM_P3).max() <= ROUNDING


def test_a_profile_is_converted_in_16_bits(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path, tag = tmp_path / "x.tif", profile(DISPLAY_P3)
    tifffile.imwrite(path, RGB.astype(np.uint16) * 257, photometric="rgb", iccprofile=tag)
    assert np.abs(read(path) - FROM_P3).max() <= ROUNDING


def test_a_profile_of_grey(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    expected = grey(encoded(levels / 255))
    Image.fromarray(levels).save(tmp_path / "8.png", icc_profile=profile())
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.png", icc_profile=profile())
    with_alpha = Image.merge("LA", [Image.fromarray(levels), Image.new("L", (32, 8), 255)])
    with_alpha.save(tmp_path / "alpha.png", icc_profile=profile())
    for name in ("8.png", "16.png", "alpha.png"):
        assert np.abs(read(tmp_path / name) - expected).max() <= ROUNDING, name


def test_alpha_and_palettes_with_a_profile(tmp_path):
    alpha = np.where(np.arange(20) < 10, 255, 0).astype(np.uint8) * np.ones((12, 1), np.uint8)
    image = Image.fromarray(np.dstack([RGB, alpha]))
    image.save(tmp_path / "x.png", icc_profile=profile(DISPLAY_P3))
    expected = np.where(alpha[..., None] == 255, FROM_P3, 255)
    assert np.abs(read(tmp_path / "x.png") - expected).max() <= ROUNDING
    flat = Image.fromarray(RGB).quantize(8)
    flat.save(tmp_path / "p.png", icc_profile=profile(DISPLAY_P3))
    flat.convert("RGB").save(tmp_path / "rgb.png", icc_profile=profile(DISPLAY_P3))
    np.testing.assert_array_equal(read(tmp_path / "p.png"), read(tmp_path / "rgb.png"))


def test_grey_with_a_profile_of_rgb_is_converted_as_rgb(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / "x.png", icc_profile=profile(DISPLAY_P3))
    # Both spaces have one white and one gamma.
    assert np.abs(read(tmp_path / "x.png") - grey(RGB[..., 0])).max() <= ROUNDING


def test_srgb_and_unusable_profiles_change_nothing(tmp_path):
    lcms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = profile(DISPLAY_P3)
    for tag in (profile(SRGB), lcms, b"junk", whole[:200], profile(), b"\0" * 3000):
        Image.fromarray(RGB).save(tmp_path / "x.png", icc_profile=tag)
        np.testing.assert_array_equal(read(tmp_path / "x.png"), RGB)


def test_heic_names_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(MediaFileError, match=r"x\.heic.*pip install pillow-heif"):
        read_pixels(tmp_path / "x.heic")


def test_heic_is_read_where_its_reader_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    smooth = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    heif.from_pillow(Image.fromarray(smooth)).save(tmp_path / "x.heic", quality=90)
    assert np.abs(read(tmp_path / "x.heic") - smooth).max() <= 4  # the codec's own loss


class TestTiff:
    """What Pillow opens and misreads is corrected or refused."""

    @pytest.fixture
    def write(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")

        def write(array, **options):
            path = tmp_path / "x.tif"
            tifffile.imwrite(path, array, metadata=None, **options)
            return path

        return write

    def test_white_is_zero(self, write):
        levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
        path = write(255 - levels, photometric="miniswhite")
        np.testing.assert_array_equal(read(path), grey(levels))
        path = write(65535 - levels.astype(np.uint16) * 257, photometric="miniswhite")
        np.testing.assert_array_equal(read(path), grey(levels))

    def test_12_bits(self, write):
        pytest.importorskip("imagecodecs")
        levels = np.arange(0, 4096, 16, dtype=np.uint16).reshape(8, 32)
        path = write(levels, photometric="minisblack", bitspersample=12)
        np.testing.assert_array_equal(read(path), grey(np.round(levels / 4095 * 255)))

    def test_channels_that_are_stored_apart(self, write):
        apart = np.moveaxis(RGB, 2, 0)
        path = write(apart, photometric="rgb", planarconfig="separate")
        np.testing.assert_array_equal(read(path), RGB)
        path = write(apart.astype(np.uint16) * 257, photometric="rgb", planarconfig="separate")
        with pytest.raises(MediaFileError, match=r"x\.tif.*stored apart.*16 bits.*interleaved"):
            read(path)
        narrow = write(apart[:, :, :3], photometric="rgb", planarconfig="separate")
        assert not is_plain_tiff(narrow)  # (3, h, 3) looks like (h, w, 3)
        np.testing.assert_array_equal(read(narrow), RGB[:, :3])

    @pytest.mark.parametrize(
        ("dtype", "reason"),
        [
            (np.int8, "signed integers"),
            (np.int16, "signed integers"),
            (np.int32, "signed integers"),
            (np.uint32, "32"),
            (np.float32, "floating point"),
            (np.float64, "floating point|does not read this kind of TIFF"),
        ],
    )
    def test_other_numbers_are_refused_with_the_reason(self, write, dtype, reason):
        path = write(np.ones((8, 8), dtype), photometric="minisblack")
        with pytest.raises(MediaFileError, match=rf"x\.tif.*{reason}"):
            read(path)
        assert not is_plain_tiff(path)

    def test_what_has_a_profile_is_not_mapped(self, write):
        assert is_plain_tiff(write(RGB, photometric="rgb"))
        assert not is_plain_tiff(write(RGB, photometric="rgb", iccprofile=profile(DISPLAY_P3)))

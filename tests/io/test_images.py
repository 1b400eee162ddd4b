import os
import re

import numpy as np
import pytest
from PIL import Image

from taesd_jax import MediaFileError
from taesd_jax.io import from_uint8, pad_image, psnr, read_image, to_uint8, write_image

RED_BLUE = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)  # 1 high, 2 wide


def test_every_8_bit_value_survives():
    values = np.arange(256, dtype=np.uint8)
    floats = from_uint8(values)
    assert (floats.dtype, floats.min(), floats.max()) == (np.float32, -1, 1)
    np.testing.assert_array_equal(to_uint8(floats), values)


def test_values_outside_are_clipped_and_what_is_not_finite_refused():
    np.testing.assert_array_equal(to_uint8(np.array([-7.0, 7])), [0, 255])
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            to_uint8(np.array([0.0, value]))
    with pytest.raises(ValueError, match=r"got 0 to 200; divide values of 0 to 255 by 127\.5"):
        to_uint8(np.array([0.0, 200.0]))
    with pytest.raises(TypeError, match="uint8.*float32"):
        from_uint8(np.zeros(3, np.float32))


def test_pixels_are_written_as_they_are(tmp_path):
    write_image(tmp_path / "x.png", RED_BLUE)
    np.testing.assert_array_equal(pixels(tmp_path / "x.png"), RED_BLUE)


def test_integers_and_other_shapes_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"\[-1, 1\], got int32"):
        write_image(tmp_path / "x.png", np.zeros((2, 2, 3), np.int32))
    with pytest.raises(TypeError, match=r"\[-1, 1\].*uint8"):
        to_uint8(np.zeros((2, 2, 3), np.uint8))
    for shape in ((2, 2), (2, 2, 1), (2, 2, 4), (1, 2, 2, 3)):
        with pytest.raises(ValueError, match=rf"\(h, w, 3\).*{re.escape(str(shape))}"):
            write_image(tmp_path / "x.png", np.zeros(shape, np.float32))


def test_padding_repeats_the_edge():
    image = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    padded = pad_image(image, 4)
    assert padded.shape == (4, 4, 3)
    np.testing.assert_array_equal(padded[:2, :3], image)
    np.testing.assert_array_equal(padded[3, :3], image[1])
    np.testing.assert_array_equal(padded[:2, 3], image[:, 2])
    assert pad_image(padded, 4).shape == (4, 4, 3)


def test_psnr_is_the_one_of_scikit_image(photos):
    from skimage.metrics import peak_signal_noise_ratio

    noise = np.random.default_rng(0).standard_normal(photos["cat"].shape).astype(np.float32)
    noisy = photos["cat"] + 0.1 * noise
    expected = peak_signal_noise_ratio(to_uint8(photos["cat"]), to_uint8(noisy))
    assert psnr(photos["cat"], noisy) == pytest.approx(expected, abs=1e-9)


def pixels(path):
    return to_uint8(read_image(path))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".jpg"])
def test_write_and_read(tmp_path, suffix, photos):
    path = tmp_path / f"x{suffix}"
    write_image(path, photos["cat"])
    again = read_image(path)
    assert again.shape == photos["cat"].shape
    if suffix in (".png", ".tif", ".bmp"):
        np.testing.assert_array_equal(again, photos["cat"])
    else:
        assert psnr(again, photos["cat"]) > 38


class TestKindsOfImage:
    def test_palette(self, tmp_path):
        Image.fromarray(RED_BLUE).convert("P", palette=Image.Palette.ADAPTIVE).save(
            tmp_path / "x.png"
        )
        np.testing.assert_array_equal(pixels(tmp_path / "x.png"), RED_BLUE)

    def test_alpha_lies_over_white(self, tmp_path):
        rgba = np.array([[[255, 0, 0, 255], [0, 0, 255, 0], [0, 0, 0, 128]]], np.uint8)
        Image.fromarray(rgba).save(tmp_path / "x.png")
        expected = [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]
        np.testing.assert_array_equal(pixels(tmp_path / "x.png"), expected)

    def test_transparent_palette_lies_over_white(self, tmp_path):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putpixel((1, 0), 1)
        image.save(tmp_path / "x.png", transparency=1)
        expected = [[[255, 0, 0], [255, 255, 255]]]
        np.testing.assert_array_equal(pixels(tmp_path / "x.png"), expected)

    def test_grey_with_alpha(self, tmp_path):
        Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "x.png")
        np.testing.assert_array_equal(pixels(tmp_path / "x.png"), [[[255, 255, 255]]])

    @pytest.mark.parametrize("mode", ["L", "1"])
    def test_grey_and_bilevel(self, tmp_path, mode):
        Image.new(mode, (3, 2), 255).save(tmp_path / "x.png")
        np.testing.assert_array_equal(pixels(tmp_path / "x.png"), np.full((2, 3, 3), 255))

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_16_bit_grey_is_scaled_not_clipped(self, tmp_path, suffix):
        values = np.array([[0, 257, 32768, 65535]], np.uint16)
        Image.fromarray(values).save(tmp_path / f"x{suffix}")
        expected = np.repeat(np.array([[0, 1, 128, 255]])[:, :, None], 3, axis=2)
        # 32768 / 257 = 127.5, rounded to the even 128.
        np.testing.assert_array_equal(pixels(tmp_path / f"x{suffix}"), expected)

    def test_cmyk(self, tmp_path):
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.tif")
        np.testing.assert_array_equal(pixels(tmp_path / "x.tif")[0, 0], [255, 0, 0])

    def test_exif_rotation_is_applied(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
        Image.fromarray(RED_BLUE).save(tmp_path / "x.png", exif=exif)
        np.testing.assert_array_equal(pixels(tmp_path / "x.png"), [[[255, 0, 0]], [[0, 0, 255]]])

    def test_animation_gives_its_first_frame(self, tmp_path):
        frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
        frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(pixels(tmp_path / "x.gif")[0, 0], [255, 0, 0])

    def test_floating_point_is_refused(self, tmp_path):
        Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "x.tif")
        with pytest.raises(MediaFileError, match=r"x\.tif.*8 or 16 bits.*floating"):
            read_image(tmp_path / "x.tif")

    def test_one_pixel(self, tmp_path):
        Image.new("RGB", (1, 1), "red").save(tmp_path / "x.png")
        assert read_image(tmp_path / "x.png").shape == (1, 1, 3)


class TestBrokenImages:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".webp", ".bmp"])
    @pytest.mark.parametrize("keep", [0, 20, 400])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_truncated(self, tmp_path, suffix, keep):
        path = tmp_path / f"x{suffix}"
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(MediaFileError, match=rf"x\{suffix}\b"):
            read_image(path)

    def test_missing_and_text(self, tmp_path):
        with pytest.raises(MediaFileError, match=r"nothing\.png"):
            read_image(tmp_path / "nothing.png")
        (tmp_path / "x.png").write_text("hello")
        with pytest.raises(MediaFileError, match=r"x\.png"):
            read_image(tmp_path / "x.png")

    def test_a_decompression_bomb(self, tmp_path, monkeypatch):
        Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(MediaFileError, match="decompression bomb"):
            read_image(tmp_path / "x.png")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.png"
    write_image(path, np.zeros((2, 2, 3), np.float32))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_image(path, np.full((2, 2, 3), np.nan))
    with pytest.raises(MediaFileError, match=r"'\.xyz'"):
        write_image(tmp_path / "x.xyz", np.zeros((2, 2, 3), np.float32))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_formats_that_other_programs_would_decode_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(MediaFileError, match=r"x\.png.*cannot identify"):
        read_image(tmp_path / "x.png")


def test_formats_that_change_the_size_are_not_written(tmp_path):
    for suffix in (".ico", ".icns", ".pdf"):
        with pytest.raises(MediaFileError, match=rf"\{suffix}"):
            write_image(tmp_path / f"x{suffix}", np.zeros((600, 8, 3), "f4"))
    for suffix in (".gif", ".tga", ".webp"):
        with pytest.raises(MediaFileError, match=rf"\{suffix}|{suffix[1:].upper()}"):
            write_image(tmp_path / f"x{suffix}", np.zeros((1, 70_000, 3), "f4"))


def test_pipes_and_folders_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(MediaFileError, match=r"pipe\.png.*pipe or a device"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(MediaFileError, match=r"folder\.png.*folder"):
        read_image(tmp_path / "folder.png")


def test_grey_of_16_and_32_bits(tmp_path):
    grey = np.array([[1000, 2000], [65535, 0]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.png", transparency=1000)
    np.testing.assert_array_equal(pixels(tmp_path / "x.png")[..., 0], [[255, 8], [255, 0]])
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(MediaFileError, match=r"x\.tif.*8 or 16 bits.*signed"):
        read_image(tmp_path / "x.tif")

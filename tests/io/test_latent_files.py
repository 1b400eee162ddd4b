import io
import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from taesd_jax import VARIANTS, MediaFileError
from taesd_jax.io import read_pixels
from taesd_jax.io.latent_png import clipped_share
from taesd_jax.io.latents import SUFFIXES, check_finite, read_latent, write_latent

TAESD, TAESD3, TAEF2 = VARIANTS["taesd"], VARIANTS["taesd3"], VARIANTS["taef2"]


def random_latent(z, n=1, dtype=np.float32):
    return np.random.default_rng(0).standard_normal((n, 3, 5, z)).astype(dtype)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_arrays_return_the_same_values(tmp_path, suffix, dtype):
    latent = random_latent(16, n=2, dtype=dtype)
    path = tmp_path / f"x{suffix}"
    write_latent(path, latent, config=TAESD3, image_size=(21, 40))
    again, size = read_latent(path, config=TAESD3)
    np.testing.assert_array_equal(again.astype(np.float32), latent.astype(np.float32))
    assert size == ((24, 40) if suffix == ".npy" else (21, 40))
    if suffix == ".safetensors":
        assert again.dtype == latent.dtype


@pytest.mark.parametrize("config", [TAESD, TAESD3, TAEF2], ids=lambda c: c.variant)
def test_png_keeps_8_bits(tmp_path, config):
    latent = random_latent(config.latent_channels)
    path = tmp_path / "x.png"
    write_latent(path, latent, config=config, image_size=(20, 39))
    with Image.open(path) as file:
        assert file.size == (5, 3 * config.latent_channels // 4)
    again, size = read_latent(path, config=config)
    assert size == (20, 39)
    assert again.shape == latent.shape
    # Half of one of 255 steps over [-3, 3].
    assert np.abs(again - np.clip(latent, -3, 3)).max() <= 3 / 255 + 1e-6
    write_latent(tmp_path / "y.png", again, config=config, image_size=(20, 39))
    assert (tmp_path / "y.png").read_bytes() == path.read_bytes()


def test_png_of_four_channels_is_the_originals(tmp_path):
    # The original stores RGBA of round(255 * clip(x / 6 + 0.5, 0, 1)) without any text.
    latent = random_latent(4)
    pixels = np.round(np.clip(latent[0] / 6 + 0.5, 0, 1) * 255).astype(np.uint8)
    write_latent(tmp_path / "ours.png", latent, config=TAESD)
    with Image.open(tmp_path / "ours.png") as file:
        np.testing.assert_array_equal(np.asarray(file), pixels)
    Image.fromarray(pixels).save(tmp_path / "theirs.png")
    a, b = (read_latent(tmp_path / f"{n}.png", config=TAESD) for n in ("ours", "theirs"))
    np.testing.assert_array_equal(a.latent, b.latent)
    assert b.image_size == (24, 40)


def test_channels_of_a_png_must_be_the_models(tmp_path):
    path = tmp_path / "x.png"
    write_latent(path, random_latent(16), config=TAESD3)
    with pytest.raises(MediaFileError, match="made by taesd3.* taesd cannot.*--model taesd3"):
        read_latent(path, config=TAESD)
    Image.new("RGBA", (8, 8)).save(path)
    with pytest.raises(MediaFileError, match=r"taesd3 needs 16 .*\(1, 8, 8, 4\)"):
        read_latent(path, config=TAESD3)
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(MediaFileError, match="RGBA.*RGB"):
        read_latent(path, config=TAESD)


def test_images_and_latents_are_not_taken_for_each_other(tmp_path):
    write_latent(tmp_path / "latent.png", random_latent(4), config=TAESD)
    with pytest.raises(MediaFileError, match=r"latent\.png: a latent, .*decode"):
        read_pixels(tmp_path / "latent.png")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert("RGBA")
    image.save(tmp_path / "image.png")
    refuse(tmp_path / "image.png", r"image\.png: an opaque image, .*encode")


def test_what_a_png_cannot_hold(tmp_path):
    for latent, message in (
        (random_latent(4, n=2), r"multiple of 4 .*\(2, 3, 5, 4\)"),
        (random_latent(6), r"multiple of 4 .*\(1, 3, 5, 6\)"),
        (random_latent(4) * np.nan, "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            write_latent(tmp_path / "x.png", latent, config=TAESD)
    assert not list(tmp_path.iterdir())


def test_clipped_share():
    latent = np.array([-4.0, -3.0, 0.0, 3.5]).reshape(1, 1, 1, 4)
    assert clipped_share(latent, TAESD) == 0.5


def test_arrays_of_other_programs(tmp_path):
    latent = random_latent(4)
    np.save(tmp_path / "x.npy", latent[0])
    np.testing.assert_array_equal(read_latent(tmp_path / "x.npy", config=TAESD).latent, latent)
    np.savez(tmp_path / "x.npz", whatever=latent)
    np.testing.assert_array_equal(read_latent(tmp_path / "x.npz", config=TAESD).latent, latent)
    np.savez(tmp_path / "x.npz", a=latent, b=latent)
    with pytest.raises(MediaFileError, match=r"'latent', got 2: a, b;"):
        read_latent(tmp_path / "x.npz", config=TAESD)


def refuse(path, message):
    with pytest.raises(MediaFileError, match=message):
        read_latent(path, config=TAESD)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_broken_files(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    refuse(path, rf"no such file: .*x\{suffix}")
    write_latent(path, random_latent(4), config=TAESD)
    complete = path.read_bytes()
    for keep in (0, 9, len(complete) // 2):
        path.write_bytes(complete[:keep])
        refuse(path, rf"x\{suffix}")


def test_arrays_that_are_no_latents(tmp_path):
    path = tmp_path / "x.npy"
    for array in (
        np.zeros((1, 2, 2, 4), np.int32),
        np.zeros((2, 2), np.float32),
        np.zeros((1, 0, 2, 4), np.float32),
        np.zeros((1, 2, 2, 4), complex),
    ):
        np.save(path, array)
        refuse(path, r"x\.npy.*float32, float16")
    path.rename(tmp_path / "x.txt")
    refuse(tmp_path / "x.txt", r"\.npy, \.npz, \.safetensors, \.latent, \.png, \.pt")
    with pytest.raises(MediaFileError, match=r"\.npy, \.npz, \.safetensors, \.png"):
        write_latent(tmp_path / "x.pt", random_latent(4), config=TAESD)


def test_pickled_arrays_run_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("pwned",)

    np.save(tmp_path / "x.npy", np.array([Trap()], object), allow_pickle=True)
    refuse(tmp_path / "x.npy", r"x\.npy")
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("latent.npy", buffer.getvalue())
    refuse(tmp_path / "x.npz", r"x\.npz")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        "[" * 10**5,
        '{"latent_channels": "4"}',
        '{"latent_channels": 4.0}',
        '{"latent_channels": 12}',
        '{"latent_channels": -4}',
        '{"latent_space": "model", "config": "[]"}',
        '{"latent_space": "model", "config": {}}',
        '{"magnitude": 0}',
        '{"shift": "x"}',
        '{"image_size": [1]}',
        '{"image_size": 3}',
    ],
)
def test_bad_text_in_a_png(tmp_path, text):
    info = PngInfo()
    info.add_text("taesd-jax", text)
    Image.new("RGBA", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    refuse(tmp_path / "x.png", r"x\.png")


def test_the_range_of_a_png_is_stored_with_it(tmp_path):
    latent = 4 * random_latent(4)
    wide = TAESD.replace(latent_magnitude=16.0, latent_shift=0.4)
    write_latent(tmp_path / "x.png", latent, config=wide)
    again = read_latent(tmp_path / "x.png", config=TAESD).latent
    assert np.abs(again - latent).max() <= 16 / 255 + 1e-5


def test_other_byte_orders_are_read_and_other_floats_refused(tmp_path):
    latent = random_latent(4)
    np.save(tmp_path / "x.npy", latent.astype(">f4"))
    again = read_latent(tmp_path / "x.npy", config=TAESD).latent
    assert again.dtype.isnative
    np.testing.assert_array_equal(again, latent)
    np.save(tmp_path / "x.npy", latent.astype(np.longdouble))
    refuse(tmp_path / "x.npy", "float32, float16, bfloat16, float64")


def test_files_of_the_wrong_kind(tmp_path):
    np.save(tmp_path / "x.npy", random_latent(4))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    refuse(tmp_path / "x.npz", r"x\.npz: not a \.npz archive.*\.npy")
    np.savez(tmp_path / "y.npz", random_latent(4))
    (tmp_path / "y.npz").rename(tmp_path / "y.npy")
    refuse(tmp_path / "y.npy", r"y\.npy")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as file:
        file.writestr("latent", b"hello")
    refuse(tmp_path / "z.npz", r"z\.npz.*bytes")


def test_what_is_no_latent_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"\(n, h, w, z\).*\(2, 2, 4\)"):
        write_latent(tmp_path / "x.npy", np.zeros((2, 2, 4)), config=TAESD)
    with pytest.raises(TypeError, match="float32.*int32"):
        write_latent(tmp_path / "x.npy", np.zeros((1, 2, 2, 4), np.int32), config=TAESD)
    assert not list(tmp_path.iterdir())


def test_a_bad_size_in_an_array_file(tmp_path):
    np.savez(tmp_path / "x.npz", latent=random_latent(4), image_size=np.array([1.5, 2]))
    refuse(tmp_path / "x.npz", "image_size.*two integers")
    from safetensors.numpy import save_file

    metadata = {"image_size": json.dumps({"h": 1})}
    save_file({"latent": random_latent(4)}, tmp_path / "x.safetensors", metadata=metadata)
    refuse(tmp_path / "x.safetensors", "image_size.*two integers")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".png"])
def test_a_size_that_does_not_fit_is_refused(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for size in ((25, 40), (24, 41), (16, 40), (24, 32), (1, 1), (0, 40), (-1, 3)):
        write_latent(path, random_latent(4), config=TAESD, image_size=size)
        refuse(path, rf"image_size is {size[1]}x{size[0]}, .*40x24")
    write_latent(path, random_latent(4), config=TAESD, image_size=(17, 33))
    assert read_latent(path, config=TAESD).image_size == (17, 33)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".png"])
def test_latents_of_another_latent_space_are_refused(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    taesdxl = VARIANTS["taesdxl"].replace(name_or_path="weights/xl")
    write_latent(path, random_latent(4), config=taesdxl)
    refuse(path, r"made by weights/xl, .* taesd cannot decode; .*--model weights/xl")
    read_latent(path, config=VARIANTS["taesdxl"])
    # ComfyUI stores the scale in float32, and a checkpoint may not tell it.
    for scale in (float(np.float32(0.13025)), None):
        read_latent(path, config=TAESD.replace(raw_latent_scale=scale, raw_latent_shift=None))


def test_files_without_fields_are_read(tmp_path):
    from safetensors.numpy import save_file

    latent = random_latent(4)
    np.savez(tmp_path / "x.npz", latent=latent, image_size=np.array([20, 40]))
    metadata = {"data_format": "NHWC", "image_size": "[20, 40]"}
    save_file({"latent": latent}, tmp_path / "x.safetensors", metadata=metadata)
    for name in ("x.npz", "x.safetensors"):
        again, size = read_latent(tmp_path / name, config=TAESD)
        np.testing.assert_array_equal(again, latent)
        assert size == (20, 40)


def test_metadata_of_other_programs_is_not_ours(tmp_path):
    from safetensors.numpy import save_file

    metadata = {"config": "anything", "model": "theirs"}
    save_file({"x": random_latent(4)}, tmp_path / "x.safetensors", metadata=metadata)
    assert read_latent(tmp_path / "x.safetensors", config=TAESD).image_size == (24, 40)


def test_axes_are_told_by_the_number_of_channels(tmp_path):
    path, latent = tmp_path / "x.npy", random_latent(4, n=2)
    for stored in (latent, latent.transpose(0, 3, 1, 2)):
        np.save(path, stored)
        np.testing.assert_array_equal(read_latent(path, config=TAESD).latent, latent)
        np.save(path, stored[0])
        np.testing.assert_array_equal(read_latent(path, config=TAESD).latent, latent[:1])
    np.save(path, latent)
    with pytest.raises(MediaFileError, match=r"\(2, 3, 5, 4\) .*NCHW; it is NHWC"):
        read_latent(path, config=TAESD, data_format="NCHW")
    cube = np.random.default_rng(0).standard_normal((16, 16, 16)).astype("f4")
    np.save(path, cube)
    with pytest.raises(MediaFileError, match="may be NHWC or NCHW.*data_format"):
        read_latent(path, config=TAESD3)
    for data_format, expected in (("NHWC", cube), ("NCHW", cube.transpose(1, 2, 0))):
        again = read_latent(path, config=TAESD3, data_format=data_format).latent
        np.testing.assert_array_equal(again[0], expected)


def test_values_beyond_float32_are_refused():
    check_finite(np.array([1e38]))
    for value in (1e300, np.nan, -np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            check_finite(np.array([0, value]))


def test_archives_that_unpack_to_far_more_are_refused_unread(tmp_path, monkeypatch):
    for name in ("x.npz", "x.pt"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("latent.npy", bytes(65 * 2**20))
    assert (tmp_path / "x.npz").stat().st_size < 2**18
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    refuse(tmp_path / "x.npz", r"x\.npz: unpacks to 68157440 bytes, expected at most 67108864")
    pytest.importorskip("torch")
    refuse(tmp_path / "x.pt", r"x\.pt: unpacks to 68157440 bytes")

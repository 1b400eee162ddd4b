"""Files larger than memory: exact, resumed after a kill, never half written."""

import json

import numpy as np
import pytest
from models import SMALL, image, latent, random_model

import taesd_jax
from taesd_jax import PictureError, cli
from taesd_jax.arrays import GrowingArray, open_array
from taesd_jax.images import from_uint8, pad_image, to_uint8

tifffile = pytest.importorskip("tifffile")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    params, config = random_model(SMALL)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    taesd_jax.save(path, params, config, layout="flax")
    return path, params, config


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_decode_into_a_mapped_file(model, tmp_path, suffix):
    path, params, config = model
    z = latent(config, (37, 9))
    np.save(tmp_path / "z.npy", z[0])
    target = tmp_path / f"picture{suffix}"
    target.write_bytes(b"old")
    command = ["decode", str(tmp_path / "z.npy"), "-o", str(target), "--model", str(path)]
    assert cli.main(command) == 0
    expected = to_uint8(np.asarray(taesd_jax.decode(params, z, config=config)[0]))
    # Rounding before 8 bits may turn a value that lies between two.
    difference = np.abs(open_array(target).astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_encode_a_mapped_file(model, tmp_path, suffix):
    path, params, config = model
    pixels = to_uint8(image(config, (77, 50))[0])
    source, target = tmp_path / f"picture{suffix}", tmp_path / "z.npy"
    if suffix == ".npy":
        np.save(source, pixels)
    else:
        tifffile.imwrite(source, pixels, photometric="rgb")
    command = ["encode", str(source), "-o", str(target), "--model", str(path)]
    assert cli.main(command) == 0
    padded = pad_image(from_uint8(pixels), 8)[None]
    expected = taesd_jax.encode(params, padded, config=config)[0]
    np.testing.assert_allclose(np.load(target), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_the_same_job_goes_on(tmp_path, suffix):
    target, content = tmp_path / f"x{suffix}", np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    first = GrowingArray(target, (5, 4, 3), "uint8", job="a")
    first.append(content[:2])
    first.flush()
    first.append(content[2:3])  # not flushed: a kill here forgets it
    again = GrowingArray(target, (5, 4, 3), "uint8", job="a")
    assert again.rows == 2
    with pytest.raises(ValueError, match="2 of 5 rows are written"):
        again.close()
    again.append(content[2:])
    again.close()
    np.testing.assert_array_equal(open_array(target), content)


def test_another_job_starts_anew(tmp_path):
    target = tmp_path / "x.npy"
    first = GrowingArray(target, (4, 2, 3), "uint8", job="a")
    first.append(np.ones((2, 2, 3), np.uint8))
    first.flush()
    assert GrowingArray(target, (4, 2, 3), "uint8", job="b").rows == 0
    assert GrowingArray(target, (4, 2, 3), "uint8", job="a").rows == 0


def test_a_broken_note_starts_anew(tmp_path):
    target = tmp_path / "x.npy"
    for text in ("", "[]", json.dumps({"rows": 2})):
        (tmp_path / ".x.npy.partial.json").write_text(text)
        assert GrowingArray(target, (4, 2, 3), "uint8", job="a").rows == 0


def test_what_cannot_be_mapped_is_refused(tmp_path, model, capsys):
    with pytest.raises(PictureError, match="no such file"):
        open_array(tmp_path / "absent.npy")
    (tmp_path / "broken.tif").write_bytes(b"II*")
    with pytest.raises(PictureError, match="cannot be mapped"):
        open_array(tmp_path / "broken.tif")
    np.save(tmp_path / "rgb.npy", np.zeros((8, 8, 3), np.uint8))
    assert cli.main(["encode", str(tmp_path / "rgb.npy"), "--model", str(model[0])]) == 1
    assert "is written as .npy: name it with -o" in capsys.readouterr().err
    np.save(tmp_path / "grey.npy", np.zeros((8, 8), np.uint8))
    command = ["encode", str(tmp_path / "grey.npy"), "-o", str(tmp_path / "z.npy")]
    assert cli.main([*command, "--model", str(model[0])]) == 1
    assert "expected 8-bit pixels (h, w, 3), got uint8 (8, 8)" in capsys.readouterr().err

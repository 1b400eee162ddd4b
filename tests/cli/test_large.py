"""Files larger than memory: exact, resumed after a kill, never partly written."""

import json

import numpy as np
import pytest
from models import SMALL, image, latent, random_model

import taesd_jax
from taesd_jax import MediaFileError, cli
from taesd_jax.io import (
    ResumableArrayWriter,
    from_uint8,
    open_array,
    pad_image,
    to_uint8,
    write_image,
    write_latent,
)
from taesd_jax.io.arrays import is_plain_tiff

tifffile = pytest.importorskip("tifffile")

CONTENT = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    params, config = random_model(SMALL)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    taesd_jax.save(path, params, config, format="flax")
    return path, params, config


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_decode_into_a_mapped_file(model, tmp_path, suffix):
    path, params, config = model
    z = latent(config, (37, 9))
    np.save(tmp_path / "z.npy", z[0])
    target = tmp_path / f"image{suffix}"
    target.write_bytes(b"old")
    command = ["decode", str(tmp_path / "z.npy"), "-o", str(target), "--model", str(path)]
    assert cli.main([*command, "--overwrite"]) == 0
    expected = to_uint8(np.asarray(taesd_jax.decode(params, z, config=config)[0]))
    # Rounding before 8 bits may turn a value that lies half way between two levels.
    difference = np.abs(open_array(target).astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_encode_a_mapped_file(model, tmp_path, suffix):
    path, params, config = model
    pixels = to_uint8(image(config, (77, 50))[0])
    source, target = tmp_path / f"image{suffix}", tmp_path / "z.npy"
    if suffix == ".npy":
        np.save(source, pixels)
    else:
        tifffile.imwrite(source, pixels, photometric="rgb")
    command = ["encode", str(source), "-o", str(target), "--model", str(path)]
    assert cli.main(command) == 0
    padded = pad_image(from_uint8(pixels), 8)[None]
    expected = taesd_jax.encode(params, padded, config=config)
    np.testing.assert_allclose(np.load(target), expected, atol=2e-5, rtol=0)


def killed(array):
    """Let go of the file as the end of a process does."""
    array._file.close()


def begun(target, rows, job="a"):
    """Leave a job of five rows behind, some of them on disk."""
    array = ResumableArrayWriter(target, (5, 4, 3), "uint8", job=job)
    array.append(CONTENT[:rows])
    array.flush()
    array.append(CONTENT[rows : rows + 1])  # not flushed: a kill here forgets it
    killed(array)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_the_same_job_goes_on(tmp_path, suffix):
    target = tmp_path / f"x{suffix}"
    target.write_bytes(b"old")
    target.chmod(0o600)
    begun(target, 2)
    again = ResumableArrayWriter(target, (5, 4, 3), "uint8", job="a")
    assert again.rows == 2
    with pytest.raises(ValueError, match="2 of 5 rows are written"):
        again.close()
    again.append(CONTENT[2:])
    assert target.read_bytes() == b"old"
    again.close()
    np.testing.assert_array_equal(open_array(target), CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["job", "note", "rows", "empty", "garbage", "shape"])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_what_does_not_fit_starts_anew(tmp_path, suffix, damage):
    target, job = tmp_path / f"x{suffix}", "a"
    begun(target, 2)
    partial = tmp_path / f".x.partial{suffix}"
    note = partial.with_name(f"{partial.name}.json")
    shape = (5, 4, 3)
    match damage:
        case "job":
            job = "b"
        case "note":
            note.write_text("[]")
        case "rows":
            note.write_text(json.dumps(json.loads(note.read_text()) | {"rows": 6}))
        case "empty":
            partial.write_bytes(b"")
        case "garbage":
            partial.write_bytes(b"\x00" * 500)
        case "shape":
            shape = (5, 3, 4)
    array = ResumableArrayWriter(target, shape, "uint8", job=job)
    assert array.rows == 0
    array.append(np.ones(shape, np.uint8))
    array.close()
    np.testing.assert_array_equal(open_array(target), np.ones(shape))


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_damaged_partial_file_is_not_resumed(tmp_path, suffix):
    target = tmp_path / f"x{suffix}"
    begun(target, 2)
    partial = tmp_path / f".x.partial{suffix}"
    note = partial.with_name(f"{partial.name}.json")
    whole, state = partial.read_bytes(), note.read_text()
    header = open_array(partial).offset
    resumed = {}
    # The header, both flushed rows, and the row that was written after the flush.
    for name, position in {
        "header": 4,
        "first": header,
        "last": header + 23,
        "row": header + 24,
    }.items():
        damaged = bytearray(whole)
        damaged[position] ^= 1
        partial.write_bytes(damaged)
        note.write_text(state)
        array = ResumableArrayWriter(target, (5, 4, 3), "uint8", job="a")
        resumed[name] = array.rows
        array.append(CONTENT[array.rows :])
        array.close()
        np.testing.assert_array_equal(open_array(target), CONTENT)
    assert resumed == {"header": 0, "first": 0, "last": 0, "row": 2}


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_file_that_was_started_over_is_resumed(tmp_path, suffix):
    begun(tmp_path / f"x{suffix}", 4, job="a")
    begun(tmp_path / f"x{suffix}", 2, job="b")
    again = ResumableArrayWriter(tmp_path / f"x{suffix}", (5, 4, 3), "uint8", job="b")
    assert again.rows == 2
    again.suspend()


def test_two_runs_do_not_write_one_target(tmp_path):
    target = tmp_path / "x.npy"
    first = ResumableArrayWriter(target, (5, 4, 3), "uint8", job="a")
    for job in ("a", "b"):
        with pytest.raises(MediaFileError, match=r"another run is writing .*x\.npy"):
            ResumableArrayWriter(target, (5, 4, 3), "uint8", job=job)
    first.append(CONTENT)
    first.close()
    np.testing.assert_array_equal(open_array(target), CONTENT)


def test_a_job_that_fails_leaves_its_rows_or_nothing(tmp_path):
    array = ResumableArrayWriter(tmp_path / "x.npy", (5, 4, 3), "uint8", job="a")
    array.suspend()
    assert list(tmp_path.iterdir()) == []
    array = ResumableArrayWriter(tmp_path / "x.npy", (5, 4, 3), "uint8", job="a")
    array.append(CONTENT[:3])
    array.suspend()
    array = ResumableArrayWriter(tmp_path / "x.npy", (5, 4, 3), "uint8", job="a")
    assert array.rows == 3
    killed(array)


def decode(*arguments):
    return cli.main(["decode", *map(str, arguments)])


@pytest.mark.slow
def test_a_killed_command_goes_on_only_with_the_same_model_and_latent(
    model, tmp_path, monkeypatch, capsys
):
    path, params, config = model
    z, target, source = latent(config, (37, 9)), tmp_path / "x.npy", tmp_path / "z.npy"
    np.save(source, z)
    other = tmp_path / "other.safetensors"
    taesd_jax.save(other, params, config.replace(act_fn="silu"), format="flax")
    append = ResumableArrayWriter.append

    def fail(array, rows):
        append(array, rows)
        if array.rows >= 60:
            raise KeyboardInterrupt

    def interrupted():
        with monkeypatch.context() as patched:
            patched.setattr(ResumableArrayWriter, "append", fail)
            with pytest.raises(KeyboardInterrupt):
                decode(source, "-o", target, "--overwrite", "--model", path)

    interrupted()
    assert decode(source, "-o", target, "--overwrite", "--model", path) == 0
    assert "resumed at row" in capsys.readouterr().out
    result = np.load(target)
    assert decode(source, "-o", target, "--overwrite", "--model", path) == 0
    np.testing.assert_array_equal(np.load(target), result)
    assert "resumed" not in capsys.readouterr().out
    for change in (
        lambda: ["--model", str(other)],
        lambda: ["--model", str(path), "--dtype", "bfloat16"],
        lambda: np.save(source, z + 1) or ["--model", str(path)],
    ):
        interrupted()
        assert decode(source, "-o", target, "--overwrite", *change()) == 0
        assert "resumed" not in capsys.readouterr().out


def test_a_refused_latent_leaves_a_begun_job_alone(model, tmp_path, capsys):
    path, _, config = model
    target, source = tmp_path / "new" / "x.npy", tmp_path / "z.npy"
    np.save(source, latent(config, (6, 5)).transpose(0, 3, 1, 2))
    assert decode(source, "-o", target, "--model", path, "--data-format", "nhwc") == 1
    assert "z.npy: " in (error := capsys.readouterr().err)
    assert "it is NCHW" in error
    assert not target.parent.exists()


def test_the_crop_of_a_latent_holds_for_every_format(model, tmp_path):
    path, _, config = model
    z = latent(config, (9, 8))
    write_latent(tmp_path / "z.npz", z, config=config, image_size=(70, 61))
    for suffix in (".npy", ".tif"):
        target = tmp_path / f"x{suffix}"
        assert decode(tmp_path / "z.npz", "-o", target, "--model", path) == 0
        assert open_array(target).shape == (70, 61, 3)


def test_only_plain_tiff_is_mapped(model, tmp_path):
    path, params, config = model
    pixels = to_uint8(image(config, (24, 16))[0])
    files = {
        "plain": {},
        "turned": {"extratags": [(274, "H", 1, 6, True)]},
        "packed": {"compression": "zlib"},
    }
    for name, options in files.items():
        source, target = tmp_path / f"{name}.tif", tmp_path / f"{name}.npy"
        tifffile.imwrite(source, pixels, photometric="rgb", metadata=None, **options)
        assert is_plain_tiff(source) == (name == "plain")
        assert cli.main(["encode", str(source), "-o", str(target), "--model", str(path)]) == 0
        upright = np.rot90(pixels, -1) if name == "turned" else pixels
        expected = taesd_jax.encode(params, from_uint8(upright)[None], config=config)
        np.testing.assert_allclose(np.load(target), expected, atol=2e-5, rtol=0)


def test_what_cannot_be_mapped_is_refused(tmp_path, model, capsys):
    with pytest.raises(MediaFileError, match="no such file"):
        open_array(tmp_path / "absent.npy")
    (tmp_path / "broken.tif").write_bytes(b"II*")
    with pytest.raises(MediaFileError, match=r"broken\.tif: cannot be read"):
        open_array(tmp_path / "broken.tif")
    np.save(tmp_path / "rgb.npy", np.zeros((8, 8, 3), np.uint8))
    assert cli.main(["encode", str(tmp_path / "rgb.npy"), "--model", str(model[0])]) == 1
    assert "is written as .npy: pass --format npy" in capsys.readouterr().err
    np.save(tmp_path / "grey.npy", np.zeros((8, 8), np.uint8))
    command = ["encode", str(tmp_path / "grey.npy"), "-o", str(tmp_path / "z.npy")]
    assert cli.main([*command, "--model", str(model[0])]) == 1
    assert "expected 8-bit pixels (h, w, 3), got uint8 (8, 8)" in capsys.readouterr().err


def test_a_run_into_another_format_is_another_run(tmp_path):
    npy = ResumableArrayWriter(tmp_path / "x.npy", (5, 4, 3), "uint8", job="a")
    npy.append(CONTENT[:2])
    npy.suspend()
    tif = ResumableArrayWriter(tmp_path / "x.tif", (5, 4, 3), "uint8", job="a")
    tif.append(CONTENT[:4])
    tif.suspend()
    npy = ResumableArrayWriter(tmp_path / "x.npy", (5, 4, 3), "uint8", job="a")
    assert npy.rows == 2
    npy.append(CONTENT[2:])
    npy.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), CONTENT)


def test_long_names_that_begin_alike_are_different_runs(tmp_path):
    first, second = (tmp_path / f"{'x' * 120}{i}.npy" for i in range(2))
    begun(first, 2)
    other = ResumableArrayWriter(second, (5, 4, 3), "uint8", job="a")
    assert other.rows == 0
    other.suspend()


def test_a_link_beside_the_target_is_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"old")
    (tmp_path / ".x.partial.npy").symlink_to("victim")
    with pytest.raises(MediaFileError, match=r"\.x\.partial\.npy is in the way"):
        ResumableArrayWriter(tmp_path / "x.npy", (5, 4, 3), "uint8", job="a")
    assert (tmp_path / "victim").read_bytes() == b"old"


def test_latents_that_overflow_leave_nothing(model, tmp_path, capsys):
    _, params, config = model
    wide = {**params, "encoder": {**params["encoder"]}}
    last = max(wide["encoder"], key=lambda name: int(name.split("_")[1]))
    wide["encoder"][last] = {k: v * 1e6 for k, v in params["encoder"][last].items()}
    taesd_jax.save(tmp_path / "wide.safetensors", wide, config, format="flax")
    np.save(tmp_path / "image.npy", to_uint8(image(config, (64, 64))[0]))
    before = set(tmp_path.iterdir())
    write_image(tmp_path / "image.png", image(config, (64, 64))[0])
    for source in ("image.npy", "image.png"):
        words = ["encode", tmp_path / source, "-o", tmp_path / "z.npy"]
        words += ["--model", tmp_path / "wide.safetensors", "--dtype", "float16"]
        assert cli.main([str(word) for word in words]) == 1
        assert "the latent has NaN or infinity" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) - {tmp_path / "image.png"} == before

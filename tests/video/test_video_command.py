"""`taesd-jax decode-video` and `encode-video`, `write_video` and `read_video`."""

import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from video_models import latents, narrow, random_params

from taesd_jax import MediaFileError
from taesd_jax.cli import main
from taesd_jax.io import from_uint8, read_video, write_video
from taesd_jax.video import AutoencoderTinyVideo, save_video

CONFIG = narrow("taew2_2_super")
# Mean error of an encoder of video in 8-bit values, on a smooth image.
LOSSY = 4


@pytest.fixture
def folder(working_folder):
    """A working folder with a model m.safetensors and latents z.npy."""
    save_video("m.safetensors", random_params(CONFIG), CONFIG)
    np.save("z.npy", np.asarray(latents(CONFIG, 3, (1, 2)))[0])
    return working_folder


def run(capsys, *args, status=0, command="decode-video"):
    assert main([command, *map(str, args), "--model", "m.safetensors"]) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err


def expected_frames():
    vae = AutoencoderTinyVideo.from_pretrained("m.safetensors")
    return np.asarray(vae.decode(np.load("z.npy")[None], out_dtype="uint8").sample)[0]


def test_frames_in_a_folder(capsys, folder):
    assert "9 frames of 32x16" in run(capsys, "z.npy", "-o", "out")
    files = sorted((folder / "out").iterdir())
    assert [file.name for file in files] == [f"frame_{i:08}.png" for i in range(9)]
    assert np.array_equal([np.asarray(Image.open(file)) for file in files], expected_frames())
    assert "has frames" in run(capsys, "z.npy", "-o", "out", status=1)


def test_latents_of_other_axes_and_archives(capsys, folder):
    z = np.load("z.npy")
    np.save("cthw.npy", np.moveaxis(z, -1, 0)[None])
    np.savez("z.npz", latents=z, other=z + 1)
    run(capsys, "cthw.npy", "-o", "a", "--data-format", "cthw")
    assert "latents, other; name it with --key" in run(capsys, "z.npz", "-o", "b", status=1)
    run(capsys, "z.npz", "-o", "b", "--key", "latents")
    for name in ("a", "b"):
        frame = np.asarray(Image.open(folder / name / "frame_00000008.png"))
        assert np.array_equal(frame, expected_frames()[8])


def test_a_video_file(capsys, folder):
    av = pytest.importorskip("av")
    assert "9 frames" in run(capsys, "z.npy", "-o", "out.mp4", "--fps", "29.97")
    with av.open("out.mp4") as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(29.97, rel=1e-3)
        assert len(list(container.decode(video=0))) == 9
    run(capsys, "z.npy", "-o", "out.mp4")  # the same command may replace it
    (folder / "other.mp4").write_bytes(b"something else")
    assert "--overwrite" in run(capsys, "z.npy", "-o", "other.mp4", status=1)
    run(capsys, "z.npy", "-o", "other.mp4", "--overwrite")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_colours_survive_a_file(tmp_path, suffix):
    av = pytest.importorskip("av")
    rows, columns = np.mgrid[:64, :96]
    image = np.stack([4 * rows, 2 * columns, 255 - 2 * columns], axis=-1).clip(0, 255)
    image = image.astype(np.uint8)
    write_video(tmp_path / f"v{suffix}", [image] * 3)
    with av.open(str(tmp_path / f"v{suffix}")) as container:
        frame = next(container.decode(video=0)).reformat(format="rgb24", src_colorspace="ITU709")
        decoded = frame.to_ndarray()
    assert np.abs(decoded.astype(int) - image.astype(int)).mean() < LOSSY


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    pytest.importorskip("av")

    def peak(count):
        frames = (np.full((64, 64, 3), i, np.uint8) for i in range(count))
        tracemalloc.start()
        write_video(tmp_path / f"{count}.mp4", frames)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(16)  # what is imported and cached once
    assert peak(256) < 1.5 * peak(16)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")

    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_video(path, frames())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([], MediaFileError, "no frames"),
        ([np.zeros((16, 16, 3))], ValueError, "8-bit"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)], ValueError, "one size"),
    ],
)
def test_frames_that_are_refused(tmp_path, frames, error, message):
    with pytest.raises(error, match=message):
        write_video(tmp_path / "out", frames)


@pytest.mark.parametrize(
    ("args", "message", "status"),
    [
        (("none.npy", "-o", "out"), "no such file", 1),
        (("z.npy", "-o", "out.avi"), r"out\.avi.*\.mp4", 1),
        (("z.npy", "-o", "z.npy"), "is an input", 1),
        (("nan.npy", "-o", "out"), r"nan\.npy: latent 0: .*NaN", 1),
        (("flat.npy", "-o", "out"), r"--data-format THWC is \(t, h, w, z\)", 1),
        (("z.npy", "-o", "out", "--variant", "taew2_1"), "not those of the config", 1),
    ],
)
def test_what_cannot_be_decoded_is_refused(capsys, folder, args, message, status):
    z = np.load("z.npy")
    np.save("flat.npy", z[0, 0])
    z[0, 0, 0, 0] = np.nan
    np.save("nan.npy", z)
    err = run(capsys, *args, status=status)
    assert re.search(message, err), err
    assert not (folder / "out").exists()


def test_rates_are_checked(capsys, folder):
    with pytest.raises(SystemExit):
        run(capsys, "z.npy", "-o", "out", "--fps", "0")
    assert "0.01 to 1000" in capsys.readouterr().err


def test_a_folder_of_frames_is_encoded(capsys, folder):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 30, 3), np.uint8)
    write_video("clip", pixels)
    assert np.array_equal(list(read_video("clip")), pixels)
    out = run(capsys, "clip", "-o", "e.npy", command="encode-video")
    assert "2x1x2x4" in out
    frames = np.pad(from_uint8(pixels), ((0, 0), (0, 0), (0, 2), (0, 0)), mode="edge")
    vae = AutoencoderTinyVideo.from_pretrained("m.safetensors")
    assert np.array_equal(np.load("e.npy"), vae.encode(frames[None]).latents[0])
    err = run(capsys, "clip", "-o", "e.npy", command="encode-video", status=1)
    assert "--overwrite" in err
    Image.fromarray(pixels[0, :8]).save("clip/frame_00000003.png")
    err = run(capsys, "clip", "-o", "f.npy", command="encode-video", status=1)
    assert "clip: expected frames of one size, got 30x8 for frame 3 after 30x16" in err
    assert not (folder / "f.npy").exists()


def test_a_video_file_is_encoded(capsys, folder):
    pytest.importorskip("av")
    write_video("clip.mp4", np.full((5, 16, 32, 3), 100, np.uint8))
    frames = list(read_video("clip.mp4"))
    assert [frame.shape for frame in frames] == [(16, 32, 3)] * 5
    assert np.abs(np.array(frames, int) - 100).max() <= LOSSY
    assert "2x1x2x4" in run(capsys, "clip.mp4", "-o", "e.npy", command="encode-video")


def test_videos_that_cannot_be_read(capsys, folder):
    pytest.importorskip("av")
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "empty").mkdir()
    for name, message in (("none.mp4", "no such file"), ("broken.mp4", "broken"), ("empty", "no")):
        err = run(capsys, name, "-o", "e.npy", command="encode-video", status=1)
        assert re.search(message, err), err
    assert run(capsys, "z.npy", "-o", "e.npz", command="encode-video", status=2)
    assert not (folder / "e.npy").exists()

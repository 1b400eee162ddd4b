"""`taesd-jax decode-video` and `encode-video`, `write_video` and `read_video`."""

import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_models import latents, narrow, random_params, random_tensors

from taesd_jax import MediaFileError
from taesd_jax.cli import main
from taesd_jax.io import from_uint8, read_video, write_video
from taesd_jax.video import VIDEO_VARIANTS, AutoencoderTinyVideo, save_video

CONFIG = narrow("taew2_2_super")
# Mean error of an encoder of video in 8-bit values, on a smooth image.
LOSSY = 4


@pytest.fixture
def folder(working_folder):
    """A working folder with a model m.safetensors and latents z.npy."""
    save_video("m.safetensors", random_params(CONFIG), CONFIG)
    np.save("z.npy", np.asarray(latents(CONFIG, 3, (1, 2)))[0])
    return working_folder


def run(capsys, *args, status=0, command="decode-video", model="m.safetensors"):
    assert main([command, *map(str, args), "--model", model]) == status
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
    assert "out" in run(capsys, "z.npy", "-o", "out", status=1)
    assert sorted((folder / "out").iterdir()) == files


def test_frames_are_read_in_the_order_of_their_numbers(folder):
    for i in (1, 2, 10):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(f"f{i}.png")
    Path("._f3.png").write_bytes(b"of a Mac")
    assert [pixels[0, 0, 0] for pixels in read_video(".")] == [1, 2, 10]


def test_a_folder_of_frames_comes_whole_or_not_at_all(folder):
    pixels = np.zeros((8, 8, 3), np.uint8)

    def broken_off():
        yield pixels
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_video("frames", broken_off())
    assert sorted(path.name for path in folder.iterdir()) == ["m.safetensors", "z.npy"]
    (folder / "frames").mkdir()
    inode = (folder / "frames").stat().st_ino
    assert write_video("frames", [pixels]) == 1
    assert (folder / "frames").stat().st_ino == inode  # it may be a disk of its own
    assert [path.name for path in (folder / "frames").iterdir()] == ["frame_00000000.png"]


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
    for name in ("out.mp4", "out.mkv", "out.mkv", "out.webm", "out.webm"):
        run(capsys, "z.npy", "-o", name)  # the same command may replace it
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


def write_sound(path, codec, seconds):
    """Write a file of silence."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000)
        for i in range(round(seconds * 48000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp")
            frame.sample_rate, frame.pts = 48000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_sound(path):
    """Return the packets of a file's sound, without those that only prime its decoder."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [packet for packet in container.demux(stream) if packet.dts is not None]
        return [bytes(packet) for packet in packets], float(packets[-1].pts * stream.time_base)


@pytest.mark.parametrize("source", ["sound.mp4", "sound.ts", "sound.mkv"])
def test_sound_is_copied_as_it_is_and_no_longer_than_the_frames(capsys, folder, source):
    write_sound(source, "aac", 3)
    run(capsys, "z.npy", "-o", "out.mp4", "--fps", "9", "--audio", source)  # a second
    packets, last = read_sound("out.mp4")
    header = 7 if source == "sound.ts" else 0  # MPEG-TS repeats it in each packet
    expected = [packet[header:] for packet in read_sound(source)[0]]
    assert packets == expected[: len(packets)]
    assert 0.9 < last < 1
    # The shorter of both may be the sound.
    run(capsys, "z.npy", "-o", "long.mp4", "--fps", "1", "--audio", source)
    assert read_sound("long.mp4")[0] == expected


def test_sound_that_cannot_be_copied(capsys, folder):
    write_sound("sound.mp4", "aac", 1)
    write_video("silent.mp4", np.zeros((1, 16, 16, 3), np.uint8))
    for args, message in (
        (("out.webm", "--audio", "sound.mp4"), "aac.*mkv"),
        (("out.mp4", "--audio", "none.mp4"), "none.mp4: no such file"),
        (("out.mp4", "--audio", "z.npy"), "z.npy: cannot be read"),
        (("out", "--audio", "sound.mp4"), "out: a folder"),
        (("sound.mp4", "--audio", "sound.mp4"), "is an input"),
    ):
        err = run(capsys, "z.npy", "-o", *args, status=1)
        assert re.search(message, err), err
        assert not (folder / args[0]).exists() or args[0] == "sound.mp4"
    run(capsys, "z.npy", "-o", "out.mp4", "--audio", "silent.mp4")


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


# Peak of resident memory after each of four runs of the command, in kB.
PEAKS = """
import sys
from pathlib import Path
from taesd_jax.cli import main
for count in (128, 640):
    for args in (
        ["decode-video", f"{count}.npy", "-o", f"{count}.mp4"],
        ["encode-video", f"{count}.mp4", "-o", f"{count}_latents.npy"],
    ):
        assert main([*args, "--model", "m.safetensors"]) == 0
        status = Path("/proc/self/status").read_text()
        print("peak", *[x.split()[1] for x in status.splitlines() if x.startswith("VmHWM")])
"""


@pytest.mark.process
def test_peak_memory_of_both_commands_does_not_grow_with_the_length(folder):
    pytest.importorskip("av")
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell peaks")
    for frames in (128, 640):
        z = latents(CONFIG, frames // 4, (16, 16))[0]
        np.save(f"{frames}.npy", np.asarray(z))
    environment = os.environ | {"XLA_FLAGS": ""}  # the memory that users see
    done = subprocess.run(
        [sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, env=environment
    )
    peaks = [int(line.split()[1]) for line in done.stdout.splitlines() if line[:4] == "peak"]
    # Half of what the 512 frames more have in 8 bits. The first 128 fill what x264 looks ahead.
    assert peaks[-1] - peaks[1] < 50_000, peaks


def test_latents_are_written_as_they_come(folder):
    from taesd_jax.cli.video import _write

    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((k, 2, 3, 4)).astype(np.float32) for k in (1, 1, 300)]
    assert _write(folder / "e.npy", iter(parts)) == (302, 2, 3, 4)
    assert np.array_equal(np.load("e.npy"), np.concatenate(parts))
    parts[2][0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        _write(folder / "e.npy", iter(parts))
    assert np.load("e.npy").shape == (302, 2, 3, 4)
    assert not list(folder.glob(".*"))


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


@pytest.mark.oracle
def test_a_published_pickle_is_a_model(capsys, folder):
    torch = pytest.importorskip("torch")
    tensors = random_tensors(VIDEO_VARIANTS["taehv1_5"])
    torch.save({k: torch.from_numpy(t) for k, t in tensors.items()}, "model.pth")
    np.save("z32.npy", np.zeros((1, 1, 1, 32), np.float32))
    err = run(capsys, "z32.npy", "-o", "out", status=1, model="model.pth")
    assert "taehv1_5 and lighttaehy1_5" in err
    args = ("z32.npy", "-o", "out", "--variant", "taehv1_5")
    assert "1 frames of 16x16" in run(capsys, *args, model="model.pth")


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

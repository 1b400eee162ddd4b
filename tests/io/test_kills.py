"""After kills, full disks and unwritable folders the file is the old one or the new one."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import SMALL, random_model

import taesd_jax
from taesd_jax.io import write_latent
from taesd_jax.io.files import write_files

TOOL = Path(__file__).parents[1] / "tools" / "kill.py"


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
def test_kills_leave_the_old_or_the_new_file():
    command = [
        sys.executable,
        str(TOOL),
        "--times",
        "12",
    ]
    command += ["--jobs", "save", "convert"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("no other") == 2


@pytest.fixture
def full_disk():
    """Let no file grow beyond 4 kB, which is met as a full disk is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("format", ["flax", "diffusers", "original"])
def test_a_full_disk_is_named_and_loses_nothing(format, tmp_path, full_disk):
    params, config = random_model(SMALL)
    path = tmp_path / ("x.safetensors" if format == "flax" else "x")
    with pytest.raises(OSError, match=r"File too large: '.*x") as raised:
        taesd_jax.save(path, params, config, format=format)
    assert raised.value.filename
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="File too large"):
        taesd_jax.save(path, *random_model(SMALL), format="flax")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written(tmp_path):
    # Not by its mode: whoever runs this may be root.
    with pytest.raises(OSError, match=r"'/proc/\d+/task/x.safetensors'"):
        write_files({Path("/proc/self/task/x.safetensors"): b"x"})
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(OSError, match="file"):
        write_files({file / "x.safetensors": b"x"})
    assert file.read_bytes() == b"old"


def test_a_folder_in_the_files_place(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    (tmp_path / "x.safetensors" / "inside").write_bytes(b"old")
    with pytest.raises(IsADirectoryError, match=r"x\.safetensors.*folder|folder.*x\.safetensors"):
        taesd_jax.save(tmp_path / "x.safetensors", *random_model(SMALL), format="flax")
    assert (tmp_path / "x.safetensors" / "inside").read_bytes() == b"old"


def test_images_and_latents_on_a_full_disk(tmp_path, full_disk):
    noise = np.random.default_rng(0).uniform(-1, 1, (64, 64, 3)).astype("f4")
    for name in ("x.png", "x.jpg"):
        (tmp_path / name).write_bytes(b"old")
        with pytest.raises(OSError, match=f"File too large: '.*{name}"):
            taesd_jax.write_image(tmp_path / name, noise)
        assert (tmp_path / name).read_bytes() == b"old"
    latent = np.zeros((1, 64, 64, 4), "f4")
    for name in ("x.npy", "x.npz", "x.safetensors"):
        with pytest.raises(OSError, match="File too large"):
            write_latent(tmp_path / name, latent, config=SMALL)
        assert not (tmp_path / name).exists()


def test_devices_pipes_and_one_file_twice_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(os.devnull)
    for path in (tmp_path / "pipe", tmp_path / "link", Path(os.devnull), Path("/dev/stdout")):
        with pytest.raises(OSError, match="device or a pipe"):
            write_files({path: b"x"})
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "file").write_bytes(b"old")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("file")
    with pytest.raises(OSError, match="links to one"):
        write_files({tmp_path / "a": b"x", tmp_path / "b": b"y"})
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_loop_of_links_is_one_clear_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="links"):
        write_files({tmp_path / "a" / "x": b"x"})
    with pytest.raises(OSError, match="loop of links"):
        write_files({tmp_path / "a": b"x"})

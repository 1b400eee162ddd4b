"""What shows or keeps previews: files, animations, terminals and notebooks."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import taesd_jax
from taesd_jax.previews import SaveFrames, ShowInTerminal, WriteAnimation


def frames(n=2):
    return [np.full((n, 8, 6, 3), 40 * i, np.uint8) for i in range(3)]


def test_frames_on_disk(tmp_path):
    save = SaveFrames(tmp_path / "frames")
    for step, pixels in enumerate(frames()):
        save(step, pixels)
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["step_00000.png", "step_00001.png", "step_00002.png"]
    frame = np.asarray(Image.open(tmp_path / "frames" / names[2]))
    np.testing.assert_array_equal(frame, np.full((8, 12, 3), 80))


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations(tmp_path, suffix):
    path = tmp_path / f"sampling{suffix}"
    write = WriteAnimation(path)
    write.close()
    assert not path.exists()
    for step, pixels in reversed(list(enumerate(frames()))):
        write(step, pixels)
    write.close()
    with Image.open(path) as animation:
        assert animation.n_frames == 3
        for i in range(3):
            animation.seek(i)
            assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - 40 * i).max() <= 3
    with pytest.raises(taesd_jax.MediaFileError, match=r"\.gif or \.webp"):
        WriteAnimation(tmp_path / "sampling.mp4")


def test_terminal():
    console = pytest.importorskip("rich.console")
    recorded = console.Console(record=True, force_terminal=True, width=80)
    show = ShowInTerminal(width=8, console=recorded)
    show(7, frames()[2])
    show.close()
    text = recorded.export_text()
    assert "step 7" in text
    assert text.count("▀" * 8) >= 1


@pytest.mark.process
def test_notebook():
    pytest.importorskip("IPython")
    code = """
import numpy as np
from taesd_jax.previews import ShowInNotebook
show = ShowInNotebook()
show(3, np.zeros((1, 8, 8, 3), np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_keep_every_picture_of_a_step(tmp_path):
    frames, animation = SaveFrames(tmp_path / "frames"), WriteAnimation(tmp_path / "a.gif")
    for consumer in (frames, animation):
        for step, grey in ((1, 10), (0, 90), (1, 200)):
            consumer(step, np.full((1, 8, 8, 3), grey, np.uint8))
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["step_00000.png", "step_00001.png", "step_00001_1.png"]
    animation.close()
    with Image.open(tmp_path / "a.gif") as file:
        assert file.n_frames == 3
    with pytest.raises(ValueError, match="seconds must be positive"):
        WriteAnimation(tmp_path / "b.gif", seconds=0)

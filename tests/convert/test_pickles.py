"""PyTorch's files from strangers: no code runs, and nothing larger than the file comes out."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from models import SMALL, random_state

import taesd_jax
from taesd_jax import CheckpointError, CheckpointNotFoundError, cli


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["x.pth", "x.bin", "x_decoder.pth"])
def test_pickles_run_nothing(name, working_folder, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"1.weight": Trap(working_folder / "sprung")}, name)
    source = name.removesuffix("_decoder.pth")
    for call in (lambda: taesd_jax.load(source), lambda: cli_load(source)):
        with pytest.raises(CheckpointError):
            call()
    assert cli.main(["info", source]) == 1
    assert "could run code when loaded" in capsys.readouterr().err
    assert not (working_folder / "sprung").exists()


def cli_load(source):
    from taesd_jax.cli.options import load_checkpoint

    return load_checkpoint(source)


@pytest.mark.process
def test_pickles_run_nothing_without_torch(working_folder):
    import pickle

    Path("x.pth").write_bytes(pickle.dumps(Trap(working_folder / "sprung")))
    block = "import sys; sys.modules['torch'] = None; from taesd_jax.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", f"{block}sys.exit(main(['info', 'x.pth']))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "taesd-jax[torch]" in done.stderr
    assert not (working_folder / "sprung").exists()


def write_pth(path, change=None):
    """Write a decoder whose first kernel is changed."""
    torch = pytest.importorskip("torch")
    state = {k: torch.from_numpy(v) for k, v in random_state("decoder", SMALL).items()}
    first = next(iter(state))
    if change:
        state[first] = change(state[first])
    torch.save(state, path)


def load_pth(path):
    return pytest.importorskip("taesd_jax.convert").load_pth(path)


@pytest.mark.oracle
def test_views_that_repeat_their_storage_are_refused(working_folder):
    write_pth("x.pth", lambda t: t.new_ones(1).expand(t.shape))
    with pytest.raises(CheckpointError, match=r"1\.weight.*larger"):
        load_pth("x.pth")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_lazy_and_nested_tensors_are_refused(working_folder):
    torch = pytest.importorskip("torch")
    write_pth("x.pth", torch._neg_view)
    with pytest.raises(CheckpointError, match=r"1\.weight.*negated"):
        load_pth("x.pth")
    write_pth("x.pth", lambda t: torch.nested.nested_tensor([t[0], t[1]]))
    with pytest.raises(CheckpointError):
        load_pth("x.pth")


@pytest.mark.oracle
def test_compressed_and_overlapping_parts_are_refused(working_folder):
    write_pth("x.pth")
    with (
        zipfile.ZipFile("x.pth") as whole,
        zipfile.ZipFile("y.pth", "w", zipfile.ZIP_DEFLATED) as y,
    ):
        for part in whole.infolist():
            y.writestr(part.filename, whole.read(part))
    # The directory of this one names its largest part twice.
    raw = Path("x.pth").read_bytes()
    with zipfile.ZipFile("x.pth") as whole:
        largest = max(whole.infolist(), key=lambda part: part.file_size)
    with zipfile.ZipFile("x.pth", "a") as z:
        z.filelist.extend([largest] * 5)
        z.writestr("more", b"")
    assert len(Path("x.pth").read_bytes()) < len(raw) + 10_000
    for name in ("x.pth", "y.pth"):
        with pytest.raises(CheckpointError, match=f"{name}.*compressed or overlap"):
            load_pth(name)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["", "a" * 300, "~nobody-of-that-name/x", "x\0"])
def test_names_that_no_file_can_have(name, working_folder):
    convert = pytest.importorskip("taesd_jax.convert")
    for call in (convert.load_pth, taesd_jax.load):
        with pytest.raises(CheckpointNotFoundError):
            call(name)

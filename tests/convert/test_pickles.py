"""PyTorch's files from strangers: no code runs, and nothing larger than the file comes out."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from models import SMALL, named, random_model, random_state, random_states, same

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


def tensors_of(format):
    torch = pytest.importorskip("torch")
    return {k: torch.from_numpy(v) for k, v in named(random_states(SMALL), format).items()}


@pytest.mark.oracle
@pytest.mark.parametrize("prefix", ["", "vae.", "module.", "_orig_mod.", "first_stage_model."])
def test_checkpoints_of_trainings_are_read(prefix, working_folder):
    torch = pytest.importorskip("torch")
    state = {prefix + name: tensor for name, tensor in tensors_of("module").items()}
    lightning = {"epoch": 3, "pytorch-lightning_version": "2.5.0", "optimizer_states": [{"a": 1}]}
    torch.save(lightning | {"state_dict": state}, "x.ckpt")
    assert same(load_pth("x.ckpt").params, random_model(SMALL)[0])
    assert cli.main(["convert", "x.ckpt", "x.safetensors"]) == 0
    assert same(taesd_jax.load("x.safetensors").params, random_model(SMALL)[0])


@pytest.mark.oracle
def test_what_is_beside_a_wrapped_model_may_be_anything(working_folder):
    torch = pytest.importorskip("torch")
    state = {f"vae.{name}": tensor for name, tensor in tensors_of("diffusers").items()}
    torch.save(
        state | {"steps": torch.tensor(3), "ids": torch.zeros(2, dtype=torch.int64)}, "x.pth"
    )
    with pytest.warns(UserWarning, match="2 tensors beside the model"):
        assert same(load_pth("x.pth").params, random_model(SMALL)[0])


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF" + b"\0" * 400, "GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!doctype html>", "HTML page"),
        (b"Access to this model is restricted", "text that begins 'Access to this model"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"0.weight":' + b" " * 90, "safetensors file: name it"),
    ],
)
def test_a_file_of_another_kind_is_named(content, message, working_folder):
    pytest.importorskip("torch")
    Path("x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pth: expected a PyTorch file, got.*{message}"):
        load_pth("x.pth")


@pytest.fixture
def diffusers_folder(working_folder):
    """Return a folder as diffusers' older versions wrote it, with an activation of its own."""
    torch = pytest.importorskip("torch")
    taesd_jax.save("old", *random_model(SMALL.replace(act_fn="silu")))
    Path("old/diffusion_pytorch_model.safetensors").unlink()
    torch.save(tensors_of("diffusers"), "old/diffusion_pytorch_model.bin")
    return working_folder / "old"


@pytest.mark.oracle
@pytest.mark.parametrize("source", ["old", "old/diffusion_pytorch_model.bin"])
def test_pickles_of_a_diffusers_folder_have_its_config(source, diffusers_folder):
    assert load_pth(source).config.act_fn == "silu"
    assert cli.main(["convert", source, "new"]) == 0
    assert json.loads(Path("new/config.json").read_text())["act_fn"] == "silu"


@pytest.mark.oracle
@pytest.mark.parametrize("source", ["old", "old/diffusion_pytorch_model.bin"])
def test_the_advice_for_pickles_works(source, diffusers_folder):
    with pytest.raises(CheckpointError, match="PyTorch pickle") as error:
        taesd_jax.load(source)
    command, target = re.search("`(.*)`, then load (.*)", str(error.value)).groups()
    program, *arguments = shlex.split(command)
    assert program == "taesd-jax"
    assert cli.main(arguments) == 0
    for loaded in (target, "old"):
        checkpoint = taesd_jax.load(loaded)
        assert same(checkpoint.params, random_model(SMALL)[0])
        assert checkpoint.config.act_fn == "silu"
    # diffusers still finds its own file alone.
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderTiny.from_pretrained("old", use_safetensors=False)
    for name, tensor in tensors_of("diffusers").items():
        assert vae.state_dict()[name].equal(tensor)
    assert Path(target).stem != "diffusion_pytorch_model"

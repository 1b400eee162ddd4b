"""Standard input and output in the place of a file, and the object of `--json`."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import SMALL, random_model

import taesd_jax
from taesd_jax.cli import main
from taesd_jax.io import psnr, read_image, read_latent, write_image

MODEL = ("--model", "m.safetensors")


@pytest.fixture
def folder(working_folder, photos):
    """A working folder with a small model, an image and a batch of two latents."""
    taesd_jax.save("m.safetensors", *random_model(SMALL), format="flax")
    write_image("a.png", photos["cat"][:16, :21])
    np.save("two.npy", np.random.default_rng(0).standard_normal((2, 2, 2, 4)).astype("f4"))
    return working_folder


@pytest.fixture
def pipe(folder):
    """Return what runs a command with bytes on standard input, and gives standard output."""

    def run(content, *args, status=0):
        streams = os.dup(0), os.dup(1)
        Path("in").write_bytes(content)
        try:
            with open("in", "rb") as source, open("out", "wb") as target:
                os.dup2(source.fileno(), 0)
                os.dup2(target.fileno(), 1)
                assert main([*args, *MODEL]) == status
        finally:
            for descriptor, stream in enumerate(streams):
                os.dup2(stream, descriptor)
                os.close(stream)
        return Path("out").read_bytes()

    return run


@pytest.mark.parametrize("format_", ["npz", "npy", "safetensors", "png"])
def test_pictures_and_latents_go_through_pipes(pipe, capsys, format_):
    name = f"z.{format_}"
    assert main(["encode", "a.png", *MODEL, "-o", name]) == 0
    capsys.readouterr()
    piped = pipe(Path("a.png").read_bytes(), "encode", "-", "--format", format_, "-o", "-")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"stdout.{format_}: latent 2x3x4")
    Path("piped").mkdir()
    Path("piped", name).write_bytes(piped)
    latent, other = (read_latent(path, config=SMALL) for path in (name, f"piped/{name}"))
    np.testing.assert_array_equal(latent.latent, other.latent)
    assert latent.image_size == other.image_size
    assert main(["decode", name, *MODEL, "-o", "b.png"]) == 0
    assert pipe(piped, "decode", "-", "-o", "-") == Path("b.png").read_bytes()
    pipe(piped, "decode", "-", "-o", "c.png")
    assert Path("c.png").read_bytes() == Path("b.png").read_bytes()


def test_a_tensor_of_torch_goes_through_a_pipe(pipe):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(np.load("two.npy")[:1]), "z.pt")
    pipe(Path("z.pt").read_bytes(), "decode", "-", "-o", "b.png")
    assert read_image("b.png").shape == (16, 16, 3)


def test_what_cannot_be_piped(pipe, capsys):
    picture = Path("a.png").read_bytes()
    for content, args, message, status in (
        (picture, ["encode", "-"], "-o -", 2),
        (picture, ["encode", "-", "a.png", "-o", "x/"], "got -, a.png", 2),
        (picture, ["encode", ".", "-o", "-"], "name a folder", 2),
        (picture, ["encode", "-", "-o", "-", "--json"], "--json", 2),
        (b"", ["encode", "-", "-o", "-"], "standard input is empty", 1),
        (b"no picture", ["encode", "-", "-o", "-"], "error: stdin: ", 1),
        (picture[:60], ["decode", "-", "-o", "-"], r"error: stdin.png: ", 1),
        (Path("two.npy").read_bytes(), ["decode", "-", "-o", "-"], "2 latents", 1),
    ):
        assert pipe(content, *args, status=status) == b""
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.process
def test_commands_in_a_pipe(folder):
    program = shlex.join([sys.executable, "-m", "taesd_jax"])
    encode, decode = (
        f"{program} {name} - -o - {shlex.join(MODEL)}" for name in ("encode", "decode")
    )
    shell = f"cat a.png | {encode} | {decode} --quiet > b.png"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert read_image("b.png").shape == (16, 21, 3)


def printed(capsys, *args, status=0):
    """Run a command with --json; return the only object that it prints."""
    assert main([*args, *MODEL, "--json"]) == status
    return json.loads(capsys.readouterr().out)["files"]


def test_reports_as_json(capsys, folder):
    (encoded,) = printed(capsys, "encode", "a.png", "-o", "z.npz")
    assert encoded.pop("seconds") >= 0
    assert encoded == {"input": "a.png", "output": "z.npz", "latent": [2, 3, 4]}
    good, bad = printed(capsys, "decode", "two.npy", "absent.npy", "-o", "x", status=1)
    assert good["outputs"] == ["x/two.m.decoded-0.png", "x/two.m.decoded-1.png"]
    assert (good["width"], good["height"]) == (16, 16)
    assert list(bad) == ["input", "error"]
    (both,) = printed(capsys, "roundtrip", "a.png", "-o", "both.png", "--quiet")
    image = read_image("both.png")
    assert both["psnr_db"] == pytest.approx(psnr(image[:, :21], image[:, 21:]), abs=1e-3)


def test_quiet_prints_errors_alone(capsys, folder):
    assert main(["--quiet", "encode", "a.png", "absent.png", *MODEL]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("taesd-jax: error: [2/2] absent.png")
    assert read_latent("m.latent/a.m.latent.npz", config=SMALL).image_size == (16, 21)

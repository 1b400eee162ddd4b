"""Ctrl-C, broken pipes, names that are no text: the usual status, one line, no partial file."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import SMALL, random_model

import taesd_jax
from taesd_jax import cli
from taesd_jax.io import read_image, write_image

pytestmark = pytest.mark.process


@pytest.fixture
def work(working_folder):
    """Make a folder with a model and an image."""
    taesd_jax.save("model.safetensors", *random_model(SMALL), format="flax")
    rng = np.random.default_rng(0)
    write_image("image-0.png", rng.uniform(-1, 1, (40, 40, 3)).astype("f4"))
    return working_folder


# Started in the background of a shell, as tests may be, a process ignores Ctrl-C.
TERMINAL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from taesd_jax import autoencoder, cli
print("imported", file=sys.stderr, flush=True)
cli.run()
"""
LONG = {
    "decode": "decode large.npy --model model.safetensors -o out.npy",
    "fit-thumbnails": "fit-thumbnails large.png --side 2000 --model model.safetensors "
    "-o out.safetensors",
    "train": "train decoder . --init model.safetensors -o run --crop-size 32 --batch-size 2",
    "bench": "bench --sizes 512 --peers none --rounds 500 --json out",
}


@pytest.fixture
def long_work(work):
    """Add a latent and an image that take much longer than any of the waits."""
    rng = np.random.default_rng(0)
    np.save("large.npy", rng.standard_normal((1, 2048, 256, 4)).astype("f4"))
    row = rng.uniform(-1, 1, (1, 2000, 3)).astype("f4")
    write_image("large.png", np.broadcast_to(row, (2000, 2000, 3)))
    return work


def start_in_terminal(arguments):
    command = [sys.executable, "-c", TERMINAL, *arguments.split()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "imported\n"
    return process


@pytest.mark.parametrize("name", LONG)
def test_ctrl_c(name, long_work):
    before = set(long_work.rglob("*"))
    process = start_in_terminal(LONG[name])
    seconds = random.Random(name).uniform(2, 5)
    time.sleep(seconds)  # in the midst of compiling, or of computing
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, (seconds, err)
    assert err.splitlines()[-1] == "taesd-jax: interrupted", seconds
    assert "Traceback" not in err, seconds
    left = {path.name for path in set(long_work.rglob("*")) - before}
    assert not [name for name in left if name.startswith("out") or name.endswith(".tmp")], left
    assert not list(long_work.glob("run/model*"))


@pytest.mark.parametrize("module", ["argparse", "numpy", "jaxlib._jax", "jax._src.core", "flax"])
def test_ctrl_c_while_python_imports(module, work):
    # -X importtime tells each import on stderr when it is done.
    command = [sys.executable, "-X", "importtime", "-c", TERMINAL.replace("autoencoder, ", "")]
    command += ["info", "model.safetensors"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    next(line for line in lines if line.strip() == "imported")
    next(line for line in lines if line.endswith(f" {module}\n") or module == "argparse")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    err = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, out, err) == (130, "", ["taesd-jax: interrupted"])


def test_an_interrupted_decode_goes_on(work, capsys):
    # Long enough to be met in its midst, and decoded to its end twice. 48 divides the pixels of all
    # strips, so that they are summed alike wherever they begin, see docs/large_images.md.
    np.save("large.npy", np.random.default_rng(0).standard_normal((1, 1366, 48, 4)).astype("f4"))
    process = start_in_terminal(LONG["decode"])
    # It records its progress in a file beside the target.
    while not list(work.glob(".out.partial*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert not Path("out.npy").exists()
    assert cli.main(LONG["decode"].split()) == 0
    assert "resumed at row" in capsys.readouterr().out
    got = np.load("out.npy")
    Path("out.npy").unlink()
    assert cli.main(LONG["decode"].split()) == 0
    np.testing.assert_array_equal(got, np.load("out.npy"))


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "taesd_jax", *arguments],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | options,
    )


def test_a_broken_pipe(work):
    reader, writer = os.pipe()
    os.close(reader)
    process = start("info", "model.safetensors", "--json", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize("arguments", [["info", "nothing"], ["decode", "nothing.npz"]])
def test_errors_are_one_line_and_have_a_trace_on_request(arguments, work):
    process = start(*arguments)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("taesd-jax: error: ")
    process = start("--debug", *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in err


def test_a_long_list_of_tensors_is_one_line(work, capsys):
    from safetensors.numpy import save_file

    save_file({"1.weight": np.zeros((8, 4, 3, 3), "f4")}, "x.safetensors")
    assert cli.main(["info", "x.safetensors"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_names_that_are_no_text(locale, work):
    environment = os.environ | {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"}

    def run(*arguments):
        command = [sys.executable, "-m", "taesd_jax", *arguments]
        return subprocess.run(command, capture_output=True, check=False, env=environment)

    name = b"b\xe4ren\xff.png"
    os.rename("image-0.png", name)
    done = run("roundtrip", name, "--model", "model.safetensors")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert os.path.exists(b"b\xe4ren\xff.model.roundtrip.png")
    done = run("info", b"\xff\n.safetensors")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"\xff" in done.stderr or rb"\udcff" in done.stderr


@pytest.mark.parametrize("arguments", [["info", "model.safetensors"], ["--help"]])
def test_output_that_goes_nowhere(arguments, work):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*arguments, stdout=writer, PYTHONUNBUFFERED="")
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            process = start(*arguments, stdout=full, PYTHONUNBUFFERED="")
            _, err = process.communicate(timeout=60)
            assert (process.returncode, err.count("\n")) == (1, 1)
            assert "No space left" in err
            process = start("info", "nothing", stderr=full, PYTHONUNBUFFERED="")
            process.communicate(timeout=60)
            assert process.returncode == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, work):
    command = "roundtrip image-0.png --model model.safetensors -o out.png"
    shell = f"exec {sys.executable} -m taesd_jax {command} {closed}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("PSNR" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert read_image("out.png").shape == (40, 80, 3)
    shell = f"exec {sys.executable} -m taesd_jax info nothing {closed}"
    assert subprocess.run(["sh", "-c", shell], capture_output=True, check=False).returncode == 1


WITHOUT_JAX = """
import sys
from taesd_jax.cli import command, main
alone = ["--version"], ["--help"], ["--completion"], ["explode"], [], ["--complete", "train", ""]
names = command._COMMANDS
for words in (*alone, *([n, "--help"] for n in names), *([n, "--explode"] for n in names)):
    try:
        main(words)
    except SystemExit:
        pass
    assert not {"jax", "numpy"} & {*sys.modules}, words
"""


def test_help_and_usage_errors_need_no_jax(work):
    command = [sys.executable, "-c", WITHOUT_JAX]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_with_escape_codes(work, capsys):
    os.rename("image-0.png", "\x1b[31mred\x9b.png")
    assert cli.main(["roundtrip", "*red*.png", "--model", "model.safetensors"]) == 0
    assert cli.main(["info", "\x1b[31m\r.safetensors"]) == 1
    assert cli.main(["compare", "model.safetensors", "--images", "\x1b[31mred\x9b.png"]) == 0
    for option in ("--\x1b[31m", "\x1b[31m"):
        with pytest.raises(SystemExit):
            cli.main(["encode", "x", option, "--model", "model.safetensors", "--x"])
    out, err = capsys.readouterr()
    assert "\\x1b[31mred\\x9b.png" in out
    assert not {"\x1b", "\x9b", "\r"} & {*out, *err}


def test_names_that_the_terminal_cannot_show(work):
    for name in ("\u732b.png", "last.png"):
        Path(name).write_bytes(Path("image-0.png").read_bytes())
    arguments = ["encode", "\u732b.png", "last.png", "--model", "model.safetensors"]
    process = start(*arguments, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "\\u732b.model.latent.npz" in out
    assert Path("model.latent/last.model.latent.npz").exists()

"""Broken pipes, errors, names that are no text: the usual status and one line."""

import os
import subprocess
import sys

import numpy as np
import pytest
from models import SMALL, random_model

import taesd_jax
from taesd_jax import cli
from taesd_jax.images import write_image


@pytest.fixture
def work(working_folder):
    """Make a folder with a model and a picture."""
    taesd_jax.save("model.safetensors", *random_model(SMALL), layout="flax")
    rng = np.random.default_rng(0)
    write_image("picture-0.png", rng.uniform(-1, 1, (40, 40, 3)).astype("f4"))
    return working_folder


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "taesd_jax", *arguments],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
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
    os.rename("picture-0.png", name)
    done = run("roundtrip", name, "--model", "model.safetensors")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert os.path.exists(b"b\xe4ren\xff.roundtrip.png")
    done = run("info", b"\xff\n.safetensors")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"\xff" in done.stderr

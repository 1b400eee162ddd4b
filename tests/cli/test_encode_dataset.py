"""The command `encode-dataset`: what it says, what it refuses, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from encoded_datasets import contents, encoded, noise, write_source
from models import SHORT, random_model

import taesd_jax
from taesd_jax import cli
from taesd_jax.cli.arguments import datasets as arguments
from taesd_jax.datasets import read
from taesd_jax.datasets.formats import FORMATS
from taesd_jax.datasets.records import STORES
from taesd_jax.io.files import locked


@pytest.fixture
def work(working_folder):
    """Make a folder with a model and a source of seven pictures, of which one is broken."""
    taesd_jax.save("model.safetensors", *random_model(SHORT), format="flax")
    write_source(Path("source"), 7)
    Path("source/0003.png").write_bytes(b"broken")
    return working_folder


def run(words, *, model="model.safetensors"):
    default = "--size 32 --shard-images 3 --format webdataset --batch-size 8"
    return cli.main(f"encode-dataset {words} --model {model} {default}".split())


def test_a_data_set_and_what_is_said_of_it(work, capsys):
    assert run("source out --log log.jsonl") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0].startswith("7 inputs in 3 shards (32x32)")
    assert "6 records in 3 shards, 1 inputs failed" in out.splitlines()[-1]
    events = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [e["records"] for e in events if e["event"] == "shard"] == [3, 2, 1]
    assert cli.main(["check-dataset", "out"]) == 0
    before = contents(work / "out")
    assert run("source out") == 0
    assert "to do: 0 inputs" in capsys.readouterr().out
    assert contents(work / "out") == before
    assert cli.main(["decode-dataset", "out", "-o", "images"]) == 0
    assert len([*Path("images").iterdir()]) == 6


def test_the_choices_are_those_of_the_package():
    assert (*FORMATS,) == arguments.FORMATS
    assert arguments.STORES == STORES


def test_a_dry_run_writes_nothing(work, capsys):
    before = sorted(work.rglob("*"))
    assert run("source out --dry-run") == 0
    assert capsys.readouterr().out.startswith("7 inputs in 3 shards (32x32); to do: 7 inputs")
    assert sorted(work.rglob("*")) == before


def test_parts_make_the_whole(work, capsys):
    assert run("source whole") == 0
    for part in ("1/2", "0/2"):
        assert not Path("out/manifest.json").exists()
        assert run(f"source out --part {part}") == 0
    assert contents(work / "out") == contents(work / "whole")
    assert "the last one writes the manifest" in capsys.readouterr().out


def test_inputs_that_changed_are_refused_or_fail(work, capsys):
    assert run("source out --part 0/3") == 0
    Path("source/0004.png").unlink()
    write_source(Path("source"), 9)
    assert run("source out") == 1
    assert "2 new, such as 0007.png" in capsys.readouterr().err
    assert run("source out --as-planned") == 0
    # All were written again: those of the first shard are done, the others' times changed.
    keys = {failure.key for failure in read("out").manifest.failures}
    assert keys == {f"000{i}.png" for i in (3, 4, 5, 6)}
    assert run("source out --as-planned --store uint8") == 1
    assert "store was 'float16', is 'uint8'" in capsys.readouterr().err


def test_a_source_that_moved_is_gone_on_with(work):
    assert run("source out --part 0/3") == 0
    Path("source").rename("moved")
    assert run("source out --as-planned") == 1
    assert run("moved out --as-planned") == 0
    assert {failure.key for failure in read("out").manifest.failures} == {"0003.png"}


def test_too_many_failures(work, capsys):
    assert run("source out --max-failures 0") == 1
    err = capsys.readouterr().err
    assert "--max-failures: 0003.png: " in err
    assert err.count("\n") == 1
    assert run("source out --max-failures 1") == 0
    assert run("source out --max-failures 0") == 0  # nothing is left to do


def test_a_source_of_broken_pictures_is_an_error(work, capsys):
    Path("bad").mkdir()
    Path("bad/a.png").write_bytes(b"")
    assert run("bad out") == 1
    assert "no input could be read, such as a.png: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "match"),
    [
        ("source source/out", 2, "inside source"),
        ("source .", 1, "holds files of something else"),
        ("nothing out", 1, "no such file or folder"),
        ("source out --log source/0000.png", 1, "is no log"),
        ("source out --part 2/2", 2, "I below N"),
        ("source out --model nothing.safetensors", 1, "nothing.safetensors"),
        ("source out --engine spark", 2, "spark"),
        ("source out --keep-size", 2, "not allowed with"),
        ("source out --size 33", 2, "8 divides, such as 32, got 33"),
        ("source out --max-failures -5", 2, "0 or more"),
        ("source ''", 2, "expected the name"),
    ],
)
def test_what_is_refused(words, status, match, work, capsys):
    words = [word.strip("'") for word in words.split()]
    try:
        got = cli.main(["encode-dataset", "--size=32", "--model=model.safetensors", *words])
    except SystemExit as error:  # of argparse
        got = error.code
    assert got == status
    assert match in capsys.readouterr().err
    assert not Path("out/manifest.json").exists()


def test_a_second_run_in_one_folder_is_refused(work, capsys):
    assert run("source out --part 0/2") == 0
    with locked(Path("out")):
        assert run("source out") == 1
    assert "another encode-dataset is at work" in capsys.readouterr().err
    with locked(Path("out"), shared=True):  # by a part
        assert run("source out") == 1
        assert run("source out --part 1/2") == 0


def test_kept_sizes_and_buckets(work):
    for name, words in {"kept": "--keep-size", "buckets": "--size 32 --buckets"}.items():
        command = f"encode-dataset source {name} --model model.safetensors --format webdataset"
        assert cli.main([*command.split(), *words.split()]) == 0
    assert {record.image_size for record in read("kept")} == {(48, 40)}
    assert {record.image_size for record in read("buckets")} <= {(32, 32), (40, 24)}


# Started in the background of a shell, as tests may be, a process ignores Ctrl-C.
TERMINAL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from taesd_jax import cli
cli.run()
"""


@pytest.mark.process
def test_an_interrupted_run_goes_on(work):
    write_source(Path("many"), 400)
    (work / "many" / "0000.png").write_bytes(encoded(noise((2000, 2000))))
    words = "encode-dataset many out --model model.safetensors --size 64 --shard-images 8"
    words = [*words.split(), "--format", "webdataset"]
    command = [sys.executable, "-c", TERMINAL, *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not Path("out/shard-00001.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"taesd-jax: interrupted\n")
    assert not [name for name in os.listdir("out") if name.endswith(".tmp")]
    assert not Path("out/manifest.json").exists()
    assert cli.main(words) == 0
    assert len(read("out")) == 400
    assert np.isfinite(read("out")[0].latent).all()

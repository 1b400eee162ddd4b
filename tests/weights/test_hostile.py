"""Files from strangers: the right model or one clear error, and nothing else."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile import MUTATIONS, outcome, same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import SMALL, random_model, random_state
from safetensors.numpy import save_file

import taesd_jax
from taesd_jax import AutoencoderTinyConfig, CheckpointError, cli
from taesd_jax.weights.files import DIGEST, MAX_HEADER, MAX_JSON

# The same examples in every run: what fails here fails everywhere.
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),  # a busy machine is no fault of the code
)
# Address space that loading a hostile file may take beside what the process has: bytes.
MEMORY_BOUND = 256 * 2**20

TOOL = Path(__file__).parents[1] / "tools" / "fuzz.py"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Return a file that we wrote, as bytes, and its params."""
    params, config = random_model(SMALL)
    path = tmp_path_factory.mktemp("ours") / "x.safetensors"
    taesd_jax.save(path, params, config, format="flax")
    return path.read_bytes(), taesd_jax.load(path)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Return a decoder's file in the published format, without a digest."""
    path = tmp_path_factory.mktemp("theirs") / "x.safetensors"
    save_file(random_state("decoder", SMALL), path)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore:config fields unknown")
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_what_we_wrote_is_itself_or_an_error(mutate, ours, tmp_path):
    raw, whole = ours
    path = tmp_path / "x.safetensors"

    @SETTINGS
    @given(seed=st.integers(0, 2**32 - 1))
    def run(seed):
        path.write_bytes(mutate(raw, np.random.default_rng(seed)))
        result = outcome(path)
        if not isinstance(result, CheckpointError):
            assert same_bits(result.params, whole.params)
            assert result.config == whole.config

    run()


@pytest.mark.filterwarnings("ignore:config fields unknown")
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_files_of_others_give_a_whole_model_or_an_error(mutate, theirs, tmp_path):
    path = tmp_path / "x.safetensors"

    @SETTINGS
    @given(seed=st.integers(0, 2**32 - 1))
    def run(seed):
        path.write_bytes(mutate(theirs, np.random.default_rng(seed)))
        outcome(path)

    run()


@SETTINGS
@given(content=st.binary(max_size=400))
def test_any_bytes(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert isinstance(outcome(path), CheckpointError)


FIELDS = [*AutoencoderTinyConfig().to_dict(), "_class_name", "_diffusers_version", "unknown"]
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, -1, 1, 10**400, 2**31, 4097])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers")
    taesd_jax.save(folder, *random_model(SMALL))
    return folder, json.loads((folder / "config.json").read_text())


@pytest.mark.filterwarnings("ignore:config fields unknown")
@SETTINGS
@given(changes=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
def test_any_config(changes, folder):
    path, fields = folder
    (path / "config.json").write_text(json.dumps(fields | changes))
    result = outcome(path)
    if not isinstance(result, CheckpointError):
        # The tensors still decide what the model is.
        assert result.config.latent_channels == SMALL.latent_channels
        assert result.config.decoder_block_out_channels == SMALL.decoder_block_out_channels


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"a":' * 5000, "9" * 5000, "\ufeff{", "nul\0", '"' + "x" * 99]
)
def test_config_files_that_are_no_configs(text, folder):
    (folder[0] / "config.json").write_text(text, encoding="utf-8")
    assert isinstance(outcome(folder[0]), CheckpointError)


def test_a_config_is_bounded(folder):
    (folder[0] / "config.json").write_text(" " * MAX_JSON + "{}")
    with pytest.raises(CheckpointError, match=f"at most {MAX_JSON} bytes"):
        taesd_jax.load(folder[0])


def test_a_header_is_bounded(theirs, tmp_path):
    path = tmp_path / "x.safetensors"
    size = MAX_HEADER + 1
    path.write_bytes(size.to_bytes(8, "little") + b"{}" + b" " * (size - 2))
    with pytest.raises(CheckpointError, match=f"at most {MAX_HEADER} bytes"):
        taesd_jax.load(path)


def test_the_digest_is_of_tensors_names_and_config(ours, tmp_path):
    raw, _ = ours
    path = tmp_path / "x.safetensors"
    place = raw.rindex(b"force_upcast")
    end = raw.index(b",", place)
    changed = raw[place:end].replace(b"false", b"true ")
    path.write_bytes(raw[:place] + changed + raw[end:])
    with pytest.raises(CheckpointError, match=f"x.safetensors.*{DIGEST}"):
        taesd_jax.load(path)


def test_equal_models_are_equal_files(ours, tmp_path):
    for path in (tmp_path / "a.safetensors", tmp_path / "b.safetensors"):
        taesd_jax.save(path, *random_model(SMALL), format="flax")
        assert path.read_bytes() == ours[0]


def test_thumbnails_have_a_digest_too(tmp_path):
    path = tmp_path / "thumbnails.safetensors"
    shipped = Path(taesd_jax.__file__).parent / "bundled" / "thumbnails.safetensors"
    raw = bytearray(shipped.read_bytes())
    assert DIGEST.encode() in raw
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=f"thumbnails.safetensors.*{DIGEST}"):
        taesd_jax.add_thumbnails({}, path)


def test_what_comes_along_has_digests():
    bundled = Path(taesd_jax.__file__).parent / "bundled"
    for path in bundled.glob("*.safetensors"):
        assert DIGEST.encode() in path.read_bytes()[: 2**20], path.name


def test_an_edited_file_without_the_digest_loads(ours, tmp_path):
    path = tmp_path / "x.safetensors"
    params, config = random_model(SMALL)
    (tensors,) = taesd_jax.weights.serialise(params, config, format="flax").values()
    save_file(tensors, path)
    assert same_bits(taesd_jax.load(path).params, params)


class TestPlaces:
    def test_links(self, ours, tmp_path):
        (tmp_path / "whole").write_bytes(ours[0])
        link = tmp_path / "x.safetensors"
        link.symlink_to("whole")
        assert same_bits(taesd_jax.load(link).params, ours[1].params)
        for target in ("x.safetensors", "nothing", "/dev/zero", "/dev/full", "."):
            link.unlink()
            link.symlink_to(target)
            for source in (link, tmp_path):
                with pytest.raises(CheckpointError):
                    taesd_jax.load(source)

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "x.safetensors")
        for source in (tmp_path, tmp_path / "x.safetensors"):
            with pytest.raises(CheckpointError):
                taesd_jax.load(source)

    @pytest.mark.parametrize("name", ["a\0b", "", ".", "..", "~", "a/../../b", "\ud800", "x" * 300])
    def test_names(self, name, working_folder):
        with pytest.raises(CheckpointError):
            taesd_jax.load(name)


@pytest.mark.process
def test_memory_is_bounded(tmp_path):
    # A sparse file of 64 GB whose header promises one tensor.
    path = tmp_path / "x.safetensors"
    size = 2**36
    header = {"0.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    header["__metadata__"] = {DIGEST: "0" * 64}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    script = """
import resource, sys, taesd_jax
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    taesd_jax.load(sys.argv[1])
except taesd_jax.CheckpointError as error:
    assert "0.weight" in str(error), error
    print((peak() - before) * 1024)
"""
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < MEMORY_BOUND


def test_names_cannot_write_to_a_terminal(working_folder, capsys):
    state = random_state("decoder", SMALL)
    save_file(state | {"\x1b[2J9.weight": np.zeros(1, "f4")}, "x.safetensors")
    assert cli.main(["info", "x.safetensors"]) == 1
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert r"\x1b[2J9.weight" in error


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is not installed")
def test_the_fuzzer_finds_nothing():
    command = [
        sys.executable,
        str(TOOL),
        "--seconds",
        "10",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "inputs tried" in done.stdout


@pytest.mark.parametrize("field", ["latent_channels", "act_fn"])
def test_deep_nesting_is_one_clear_error(folder, tmp_path, field):
    shutil.copytree(folder[0], tmp_path / "deep")
    for depth in range(900, 1000):  # somewhere there it is read, and has no text
        nested = "[" * depth + "]" * depth
        (tmp_path / "deep" / "config.json").write_text(f'{{"{field}": {nested}}}')
        with pytest.raises(CheckpointError):
            taesd_jax.load(tmp_path / "deep")

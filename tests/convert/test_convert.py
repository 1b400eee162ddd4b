"""The PyTorch side: .pth files, state dicts and modules both ways, the parity report."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from models import (
    CONFIGS,
    SHORT,
    SMALL,
    image,
    latent,
    named,
    random_model,
    random_state,
    random_states,
    same,
)

import taesd_jax
from taesd_jax import VARIANTS, CheckpointError, CheckpointNotFoundError
from taesd_jax.cli import main

torch = pytest.importorskip("torch")
convert = pytest.importorskip("taesd_jax.convert")

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).parents[2]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": jax.numpy.bfloat16}


def nchw(x):
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(x), -1, 1), order="C"))


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("name", ["taesd3", "taef2", "taesana", "narrowing in blocks"])
def test_pth_round_trip_returns_the_same_bits(tmp_path, name, dtype):
    params, config = random_model(CONFIGS[name], dtype=DTYPES[dtype])
    written = convert.save_pth(tmp_path / name, params, config)
    assert [p.name for p in written] == [f"{name}_encoder.pth", f"{name}_decoder.pth"]
    state = torch.load(written[1], weights_only=True)
    assert state.keys() == random_state("decoder", config).keys()
    assert {t.dtype for t in state.values()} == {getattr(torch, dtype)}
    again = convert.load_pth(tmp_path / name)
    assert same(again.params, params)
    assert again.config.architecture == config.architecture
    assert again.config.variant == config.variant
    decoder = convert.load_pth(written[1])
    assert same(decoder.params, {"decoder": params["decoder"]})


@pytest.mark.parametrize("format", ["diffusers", "module", "comfyui"])
def test_state_dicts_in_memory(format):
    params, config = random_model(VARIANTS["taesd3"], dtype=DTYPES["bfloat16"])
    state = convert.to_torch(params, config, format=format)
    again = convert.from_torch(state, variant="taesd3")
    assert same(again.params, params)
    assert again.config.variant == "taesd3"
    assert again.format == format


def test_original_names_take_one_component():
    params, config = random_model(SMALL)
    state = convert.to_torch({"decoder": params["decoder"]}, config, format="original")
    assert state.keys() == random_state("decoder", SMALL).keys()
    with pytest.raises(CheckpointError, match="'original'"):
        convert.to_torch(params, config, format="original")


@pytest.mark.parametrize("name", ["taesd", "taef2", "taesana"])
def test_modules_both_ways(name):
    config = VARIANTS[name].replace(act_fn="silu")
    params, _ = random_model(config)
    module = convert.TorchAutoencoderTiny(params, config)
    again = convert.from_torch(module)
    assert same(again.params, params)
    assert again.config == config
    x, z = image(config, (config.spatial_factor,) * 2), latent(config, (1, 2))
    with torch.no_grad():
        ours = taesd_jax.encode(params, x, config=config)
        np.testing.assert_allclose(nchw(ours), module.encoder(nchw(x)), atol=5e-5)
        ours = taesd_jax.decode(params, z, config=config)
        np.testing.assert_allclose(nchw(ours), module.decoder(nchw(z)), atol=5e-5)
    alone = convert.TorchAutoencoderTiny({"decoder": params["decoder"]}, config)
    assert alone.encoder is None


def test_diffusers_modules_both_ways():
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderTiny(latent_channels=16, act_fn="silu", scaling_factor=2.0)
    params, config, format = convert.from_torch(vae)
    assert (format, config.act_fn, config.scaling_factor) == ("diffusers", "silu", 2.0)
    for name, tensor in convert.to_torch(params, config).items():
        assert torch.equal(tensor, vae.state_dict()[name])


class TestBrokenPickles:
    def refuse(self, path, message, kind=CheckpointError):
        with pytest.raises(kind, match=message):
            convert.load_pth(path)

    def test_a_pickle_that_runs_code(self, tmp_path):
        marker = tmp_path / "pwned"

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        for new in (True, False):
            path = tmp_path / "x.pth"
            torch.save({"0.weight": Trap()}, path, _use_new_zipfile_serialization=new)
            self.refuse(path, r"x\.pth.*could run code")
        with pytest.raises(CheckpointError, match=r"x\.pth.*PyTorch pickle"):
            taesd_jax.load(path)
        assert main(["info", str(path)]) == 1
        assert not marker.exists()

    def test_broken(self, tmp_path):
        path = tmp_path / "x.pth"
        torch.save(
            {k: torch.from_numpy(v) for k, v in random_state("decoder", SMALL).items()}, path
        )
        whole = path.read_bytes()
        for keep in (0, 3, 1000, len(whole) - 10):
            path.write_bytes(whole[:keep])
            self.refuse(path, r"x\.pth")
        path.write_text("hello")
        self.refuse(path, r"x\.pth")

    def test_missing(self, tmp_path):
        self.refuse(tmp_path / "x", r"x_encoder\.pth", CheckpointNotFoundError)

    def test_other_contents(self, tmp_path):
        path = tmp_path / "x.pth"
        for content, message in (
            ([torch.zeros(3)], "state dict.*list"),
            ({"step": 3}, "float32, float16, bfloat16.*step is int"),
            ({"a": torch.zeros(3).to_sparse()}, "a is torch.sparse_coo"),
            ({"a": torch.zeros(3, device="meta")}, "a is meta"),
            ({"0.weight": torch.zeros(3, dtype=torch.int8)}, "0.weight is torch.int8"),
            ({"a": torch.zeros(3)}, "1 tensors: a"),
            ({3: torch.zeros(3)}, "names.* 3"),
        ):
            torch.save(content, path)
            self.refuse(path, message)


@pytest.mark.process
def test_without_torch_the_command_says_what_to_install(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"x")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from taesd_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for args in (["info", "x.pth"], ["convert", "x.pth", "y"], ["verify", "x.pth"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert re.fullmatch(
            r"taesd-jax: error: .*PyTorch.*pip install 'taesd-jax\[torch\]'\n", done.stderr
        )


def test_the_command_reads_and_writes_pth(working_folder, capsys):
    params, config = random_model(VARIANTS["taef2"])
    convert.save_pth("taef2", params, config)
    assert main(["convert", "./taef2", "taef2.safetensors"]) == 0
    assert "taef2.safetensors: flax from original" in capsys.readouterr().out
    assert same(taesd_jax.load("taef2.safetensors").params, params)
    assert same(convert.load_pth("taef2").params, params)  # nothing but paths are read here
    assert main(["convert", "taef2.safetensors", "again", "--to", "pth"]) == 0
    assert same(convert.load_pth("again").params, params)
    assert main(["info", "again_decoder.pth"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"encoder.*absent.*'again'.*again_encoder\.pth", out)


def test_pth_has_no_room_for_a_config(tmp_path):
    params, config = random_model(SMALL.replace(act_fn="gelu"))
    with pytest.raises(CheckpointError, match=r"\.pth.*config"):
        convert.save_pth(tmp_path / "x", params, config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("act_fn", ["silu", "gelu", "mish"])
def test_the_parity_report_holds_for_other_activations(act_fn):
    params, config = random_model(SHORT.replace(act_fn=act_fn))
    report = convert.parity_report({"decoder": params["decoder"]}, config)
    assert report.ok, report.table()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taesd", "taef2", "taesana"])
def test_the_parity_report_holds_its_bounds(name):
    params, config = random_model(VARIANTS[name])
    if name == "taesana":
        del params["decoder"]
    report = convert.parity_report(params, config)
    assert report.ok, report.table()
    layers = [row for row in report.rows if row.layer != "full"]
    # An activation belongs to the convolution before it.
    per_component = {"taesd": (15, 16), "taef2": (15, 16), "taesana": (16, 0)}[name]
    for component, count in zip(("encoder", "decoder"), per_component, strict=True):
        assert sum(row.component == component for row in layers) == 3 * count
    assert {row.dtype for row in report.rows} == {"float32", "bfloat16", "float16"}
    assert len(report.table().split("\n")) == len(report.rows) + 2
    json.dumps(report.to_dict())


def test_the_parity_report_sees_a_difference(monkeypatch):
    from taesd_jax.convert import parity

    params, config = random_model(SMALL)
    real = parity.bind

    def off(component_params, component, config):
        component_params["layers_5"]["conv_2"]["bias"] += 1e-3
        return real(component_params, component, config)

    monkeypatch.setattr(parity, "bind", off)
    report = parity.parity_report({"decoder": params["decoder"]}, config)
    bad = {(row.layer, row.dtype) for row in report.rows if not row.ok}
    assert ("5 block", "float32") in bad
    assert ("full", "float32") in bad
    assert ("4 block", "float32") not in bad
    assert not report.ok
    assert f"{len(bad)} of {len(report.rows)} rows" in report.table()
    # What is too far off is shown in any case.
    assert report.table(layers=False).count("TOO FAR") == len(bad)


def test_verify_prints_a_summary_layers_or_json(working_folder, capsys, photos):
    params, config = random_model(SHORT)
    taesd_jax.save("m.safetensors", params, config, format="flax")
    taesd_jax.write_image("cat.png", photos["cat"][:40, :48])
    assert main(["verify", "m.safetensors", "--image", "cat.png"]) == 0
    # A line for each component and dtype, between the head and the verdict.
    assert len(capsys.readouterr().out.splitlines()) == 2 * 3 + 2
    assert main(["verify", "m.safetensors", "--image", "cat.png", "--layers"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 30  # and for each layer
    assert main(["verify", "m.safetensors", "--image", "cat.png", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"component", "layer", "dtype", "max_error", "mean_error"} <= report["rows"][0].keys()
    assert report["rows"][0]["shape"] == [1, 40, 48, 8]


@pytest.mark.slow
@pytest.mark.process
def test_it_runs_from_a_checkout(tmp_path):
    params, config = random_model(SMALL)
    taesd_jax.save(tmp_path / "m.safetensors", params, config, format="flax")
    for module, args in (
        ("convert", ["m.safetensors", "o", "--to", "original"]),
        ("convert", ["o", "p", "--to", "pth"]),
        ("convert.verify", ["p"]),
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, *args],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "p_decoder.pth").is_file()


def test_names_are_shared_by_random_and_real():
    # The random models of the other tests have the names that PyTorch modules have.
    module = convert.TorchAutoencoderTiny(*random_model(VARIANTS["taef2"]))
    assert module.state_dict().keys() == named(random_states(VARIANTS["taef2"]), "module").keys()

"""Folders, pairs, labels and broken files."""

import json
import shutil

import numpy as np
import pytest
from models import (
    SMALL,
    assemble,
    named,
    part,
    random_model,
    random_state,
    random_states,
    same,
    write_pair,
)
from safetensors.numpy import load_file, save_file

import taesd_jax
from taesd_jax import (
    VARIANTS,
    CheckpointError,
    CheckpointNotFoundError,
    weights,
)
from taesd_jax.weights.names import file_name, to_flax
from taesd_jax.weights.sources import variant_from_name

# A file that was cut or holds something else is named, and so is the kind that was expected.
NOT_WHOLE = r"x\.safetensors.*safetensors file"


def test_names_label_but_never_decide(tmp_path):
    assert variant_from_name("TAESDXL_decoder") == "taesdxl"
    assert variant_from_name("sdxl-vae") == ""
    # Files named after taesd3 that hold a 4-channel model are a 4-channel model.
    path = write_pair(tmp_path, "taesd3", VARIANTS["taesd"])
    config = taesd_jax.load(path).config
    assert (config.latent_channels, config.variant) == (4, None)
    write_pair(tmp_path, "taesdxl", VARIANTS["taesd"])
    assert taesd_jax.load(tmp_path / "taesdxl").config.variant == "taesdxl"


def test_one_file_of_a_pair_is_one_component(tmp_path):
    path = write_pair(tmp_path)
    (tmp_path / "taesd_encoder.safetensors").unlink()
    for source in (path, tmp_path / "taesd_decoder.safetensors"):
        vae = taesd_jax.AutoencoderTiny.from_pretrained(source)
        assert list(vae.params) == ["decoder"]
        with pytest.raises(ValueError, match=r"encoder.*taesd_encoder\.safetensors"):
            vae.encode(np.zeros((1, 8, 8, 3), np.float32))


def test_folders(tmp_path):
    write_pair(tmp_path)
    assert set(taesd_jax.load(tmp_path).params) == {"encoder", "decoder"}
    assert taesd_jax.load(tmp_path.parent, subfolder=tmp_path.name).config == SMALL
    shutil.copy(tmp_path / "taesd_encoder.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors.*name one"):
        taesd_jax.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="diffusion_pytorch_model"):
        taesd_jax.load(tmp_path / "empty")


def test_config_must_describe_the_tensors(tmp_path):
    params, config = random_model(SMALL)
    taesd_jax.save(tmp_path, params, config)
    fields = json.loads((tmp_path / "config.json").read_text())

    def with_config(text):
        (tmp_path / "config.json").write_text(text)
        return taesd_jax.load(tmp_path)

    with pytest.raises(CheckpointError, match=r"\n.*16"):
        with_config(json.dumps(fields | {"latent_channels": 16}))
    with pytest.raises(CheckpointError, match=r"config\.json.*JSON"):
        with_config("{")
    with pytest.raises(CheckpointError, match=r"config\.json.*JSON.*list"):
        with_config("[]")
    with pytest.raises(CheckpointError, match="AutoencoderTiny.*AutoencoderKL"):
        with_config(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(CheckpointError, match="act_fn.*'exec'"):
        with_config(json.dumps(fields | {"act_fn": "exec"}))
    assert with_config(json.dumps(fields | {"act_fn": "silu"})).config.act_fn == "silu"


def test_a_pair_may_mix_schemes():
    states = random_states(SMALL)
    encoder = {file_name(k, "encoder", "flax"): to_flax(v) for k, v in states["encoder"].items()}
    parts = [part(encoder), part(states["decoder"])]
    for order in (parts, parts[::-1]):
        params, _, format = weights.assemble(order, fields={}, variant="", origin="x")
        assert same(params, {h: random_model(SMALL)[0][h] for h in params})
        assert format == "flax/original"


def test_configs_of_a_pair_must_agree(tmp_path):
    path = tmp_path / "m"
    params, _ = random_model(VARIANTS["taesd"])
    taesd_jax.save(path, params, VARIANTS["taesdxl"], format="original")
    decoder = {"decoder": params["decoder"]}
    taesd_jax.save(path, decoder, VARIANTS["taesd"], format="original")
    with pytest.raises(CheckpointError, match=r"m_encoder\.safetensors.*m_decoder\.safetensors"):
        taesd_jax.load(path)


def test_scalars_must_agree_with_the_config_inside(tmp_path):
    path = tmp_path / "c.safetensors"
    params, _ = random_model(SMALL)
    config = SMALL.replace(raw_latent_scale=0.18215, raw_latent_shift=0.0)
    taesd_jax.save(path, params, config, format="comfyui")
    assert taesd_jax.load(path).config.raw_latent_scale == 0.18215
    tensors = load_file(path) | {"vae_scale": np.array(0.13025, np.float32)}
    save_file(tensors, path, metadata={"config": json.dumps(config.to_dict())})
    with pytest.raises(CheckpointError, match="vae_shift.* 0.13025 and 0"):
        taesd_jax.load(path)
    for value in (np.nan, np.inf, -1):
        scalars = {"vae_scale": np.float32(value).reshape(())}
        with pytest.raises(CheckpointError, match="raw_latent_scale"):
            assemble(named(random_states(SMALL), "comfyui") | scalars)


def test_the_file_inside_a_diffusers_folder_brings_its_config(tmp_path):
    params, _ = random_model(SMALL)
    config = SMALL.replace(act_fn="silu", latent_magnitude=5.0, force_upcast=True)
    taesd_jax.save(tmp_path, params, config)
    for source in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        assert taesd_jax.load(source).config == config


def test_a_file_is_a_better_label_than_its_folder(tmp_path):
    (tmp_path / "taesd").mkdir()
    write_pair(tmp_path / "taesd", "taesdxl", VARIANTS["taesd"])
    assert taesd_jax.load(tmp_path / "taesd").config.variant == "taesdxl"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(value):
    state = random_state("decoder", SMALL)
    state["3.conv.2.bias"][4] = value
    with pytest.raises(CheckpointError, match=r"decoder\.layers_3\.conv_2\.bias"):
        assemble(state)


class TestBrokenFiles:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "x.safetensors"
        save_file(random_state("decoder", SMALL), path)
        return path

    def refuse(self, path, message, kind=CheckpointError):
        with pytest.raises(kind, match=message):
            taesd_jax.load(path)

    def test_missing(self, tmp_path):
        message = r"'.*nothing\.safetensors'"
        self.refuse(tmp_path / "nothing.safetensors", message, CheckpointNotFoundError)
        self.refuse("./nothing", r"'\./nothing'", FileNotFoundError)
        self.refuse("nothing", "small, taesd, taesdxl", CheckpointNotFoundError)
        self.refuse("x" * 5000, "'xxx", CheckpointNotFoundError)
        self.refuse("~nosuchuser/x", "'~nosuchuser", CheckpointNotFoundError)

    def test_empty(self, file):
        file.write_bytes(b"")
        self.refuse(file, r"x\.safetensors.*empty")

    @pytest.mark.parametrize("keep", [1, 7, 8, 100, 3000, -1])
    def test_truncated(self, file, keep):
        file.write_bytes(file.read_bytes()[:keep])
        self.refuse(file, NOT_WHOLE)

    def test_not_safetensors(self, file):
        file.write_bytes(b"\x89PNG\r\n" * 100)
        self.refuse(file, NOT_WHOLE)

    def test_huge_shapes(self, file):
        header = {"0.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
        self.refuse(file, NOT_WHOLE)

    def test_huge_header(self, file):
        file.write_bytes((2**62).to_bytes(8, "little") + b"{}")
        self.refuse(file, NOT_WHOLE)

    def test_other_dtypes(self, file):
        save_file({"1.weight": np.zeros((8, 4, 3, 3), np.int8)}, file)
        self.refuse(file, r"float32, float16, bfloat16.*1\.weight.*I8")

    def test_folder_in_place_of_a_file(self, tmp_path):
        (tmp_path / "x.safetensors").mkdir()
        self.refuse(tmp_path / "x.safetensors", r"x\.safetensors")

    def test_bad_metadata(self, file):
        for text in ("{", "[]", '{"latent_channels": []}'):
            save_file(random_state("decoder", SMALL), file, metadata={"config": text})
            self.refuse(file, "config")

    @pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt", "x.bin"])
    def test_pickles_are_not_opened(self, tmp_path, name):
        path = tmp_path / name
        path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        self.refuse(path, f"{name}.*taesd-jax convert")
        self.refuse(tmp_path / f"no-{name}", f"no-{name}", CheckpointNotFoundError)

    def test_a_pair_of_pickles_is_named_as_such(self, tmp_path):
        (tmp_path / "taef2_decoder.pth").write_bytes(b"x")
        self.refuse(tmp_path / "taef2", "PyTorch pickle.*taesd-jax convert")
        self.refuse(tmp_path, r"taef2_decoder\.pth.*PyTorch pickle.*taesd-jax convert")

"""Files of other programs: named for what they are, and read where they hold a model."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from models import SMALL, named, random_model, random_state, random_states, same
from safetensors.numpy import save_file

import taesd_jax
from taesd_jax import CheckpointError, CheckpointNotFoundError, cli
from taesd_jax.weights.names import WRAPPERS

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4915980\n"
# The start of a file that PyTorch's exporter wrote: version 8 of the format, name of the producer.
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x062.13.0" + b"\0" * 400
HTML = b"<!DOCTYPE html>\n<html><head><title>taesd - Hugging Face</title></head>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF\x03\0\0\0" + b"\0" * 400, "GGUF file"),
        (ONNX, "ONNX model"),
        (LFS_POINTER, "Git LFS pointer.*git lfs pull"),
        (HTML, "HTML page: download the file itself"),
        (b"\xef\xbb\xbf<html>", "HTML page"),
        (b"Entry not found", "text that begins 'Entry not found'"),
        ("Zugriff verweigert: ä".encode() * 30, "text that begins 'Zugriff"),
        (b'{"weight_map": {}}', "JSON file"),
        (b"\x80\x02}q\0.", "PyTorch file.*name it .pth"),
        (b"\x93NUMPY\x01\0", "NumPy array"),
        (b"\x89PNG\r\n" * 100, "PNG image"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.safetensors.*safetensors file, got.*{message}"):
        taesd_jax.load(path)


def test_archives_are_told_apart(tmp_path):
    path = tmp_path / "x.safetensors"
    for member, message in (("archive/data.pkl", "PyTorch file"), ("a.txt", "zip archive")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"x")
        with pytest.raises(CheckpointError, match=message):
            taesd_jax.load(path)


def test_a_truncated_file_is_not_taken_for_something_else(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(random_state("decoder", SMALL), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated, download it again"):
        taesd_jax.load(path)


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "module._orig_mod.", "vae.module."])
def test_prefixes_of_other_programs_are_taken_off(tmp_path, wrapper):
    path, params = tmp_path / "x.safetensors", random_model(SMALL)[0]
    for format in ("diffusers", "comfyui", "module"):
        tensors = named(random_states(SMALL), format)
        save_file({wrapper + name: tensor for name, tensor in tensors.items()}, path)
        checkpoint = taesd_jax.load(path)
        assert same(checkpoint.params, params)
        assert checkpoint.format == format


def test_prefixes_without_end_are_refused_at_once(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"module." * 100_000 + "0.weight": np.zeros(1, "f4")}, path)
    with pytest.raises(CheckpointError, match="no tiny autoencoder"):
        taesd_jax.load(path)


def test_what_is_beside_a_wrapped_model_is_left_out_with_a_warning(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {f"vae.{k}": v for k, v in named(random_states(SMALL), "diffusers").items()}
    others = {"unet.conv_in.weight": np.zeros((2, 2), "f4"), "text.ids": np.zeros(3, np.int64)}
    save_file(tensors | others, path)
    with pytest.warns(UserWarning, match="2 tensors beside the model"):
        assert same(taesd_jax.load(path).params, random_model(SMALL)[0])


def test_prefixes_that_do_not_tell_one_model_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = named(random_states(SMALL), "diffusers")
    wrapped = {f"vae.{k}": v for k, v in tensors.items()}
    one_lost = dict(list(wrapped.items())[1:])
    two = wrapped | {f"tae.{k}": v for k, v in tensors.items()}
    full = {"first_stage_model.encoder.down.0.block.0.conv1.weight": np.zeros(1, "f4")}
    for content, message in (
        (two, r"several models.*vae\. and tae\."),
        (wrapped | tensors, "no tiny autoencoder"),
        (tensors | {"vae.x": np.zeros(1, "f4")}, r"\['vae\.x'\]"),
        (one_lost, r"encoder 0\.weight: missing"),
        (full, "full VAE in its original format"),
    ):
        save_file(content, path)
        with pytest.raises(CheckpointError, match=message):
            taesd_jax.load(path)


class TestShards:
    @pytest.fixture
    def index(self, tmp_path):
        tensors = named(random_states(SMALL), "diffusers")
        names, places = sorted(tensors), {}
        for i in (1, 2):
            file = f"diffusion_pytorch_model-{i:05}-of-00002.safetensors"
            part = names[: len(names) // 2] if i == 1 else names[len(names) // 2 :]
            save_file({name: tensors[name] for name in part}, tmp_path / file)
            places |= dict.fromkeys(part, file)
        index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        fields = SMALL.replace(act_fn="silu").to_dict() | {"_class_name": "AutoencoderTiny"}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        return index

    def test_an_index_is_read_with_its_shards(self, index):
        for source in (index, index.parent):
            checkpoint = taesd_jax.load(source)
            assert same(checkpoint.params, random_model(SMALL)[0])
            assert checkpoint.config.act_fn == "silu"

    def test_one_shard_is_no_model(self, index):
        for shard in index.parent.glob("*-of-*"):
            with pytest.raises(CheckpointError, match=r"one of 2 shards.*safetensors\.index\.json"):
                taesd_jax.load(shard)
            with pytest.raises(CheckpointError, match="one of 2 shards.*in safetensors"):
                taesd_jax.load(shard.rename(shard.with_suffix(".bin")))

    def test_shards_must_all_be_there_and_beside(self, index):
        last = index.parent / "diffusion_pytorch_model-00002-of-00002.safetensors"
        moved = last.rename(index.parent.parent / "moved.safetensors")
        for source in (index, index.parent):
            with pytest.raises(CheckpointNotFoundError, match=last.name):
                taesd_jax.load(source)
        for places in (f"../{moved.name}", str(moved), 3, None, "", {}):
            index.write_text(json.dumps({"weight_map": {"x": places}}))
            with pytest.raises(CheckpointError, match="weight_map"):
                taesd_jax.load(index)
        moved.unlink()

    def test_a_tensor_in_two_shards_is_refused(self, index):
        first, last = sorted(index.parent.glob("*-of-*"))
        last.write_bytes(first.read_bytes())
        with pytest.raises(CheckpointError, match="another shard"):
            taesd_jax.load(index)


class TestNames:
    @pytest.fixture
    def other(self, working_folder, monkeypatch):
        """Put another model under the names of the table into the working folder."""
        params, config = random_model(SMALL, seed=1)
        taesd_jax.save("taesd", params, config)
        taesd_jax.save("small", {"decoder": params["decoder"]}, config, format="original")
        monkeypatch.setenv("HF_HUB_CACHE", str(working_folder / "cache"))
        return params

    def test_a_name_of_the_table_is_not_a_path(self, other):
        assert set(taesd_jax.load("small").params) == {"encoder", "decoder"}
        assert list(taesd_jax.load("./small").params) == ["decoder"]
        assert same(taesd_jax.load("./taesd").params, other)
        assert same(taesd_jax.load(Path("taesd")).params, other)
        with pytest.raises(
            CheckpointNotFoundError, match=r"madebyollin/taesd.*on disk write \./taesd"
        ):
            taesd_jax.load("taesd", cache_dir="empty", local_files_only=True)

    def test_an_empty_folder_does_not_hide_a_model(self, working_folder):
        Path("small").mkdir()
        Path("small_decoder.safetensors").touch()
        assert set(taesd_jax.load("small").params) == {"encoder", "decoder"}

    def test_info_shows_the_files(self, other, capsys):
        assert cli.main(["info", "./taesd"]) == 0
        assert "taesd/diffusion_pytorch_model.safetensors" in capsys.readouterr().out
        assert cli.main(["info", "small", "--json"]) == 0
        (file,) = json.loads(capsys.readouterr().out)["files"]
        assert Path(file) == Path(taesd_jax.__file__).parent / "bundled" / "small.safetensors"

    @pytest.mark.parametrize("name", ["taesdx", "TAESD3", "tasd", "smal"])
    def test_misspelt_names_get_the_name_that_was_meant(self, name, working_folder):
        meant = {"taesdx": "taesd", "TAESD3": "taesd3", "tasd": "taesd", "smal": "small"}[name]
        with pytest.raises(CheckpointNotFoundError, match=f"did you mean '{meant}"):
            taesd_jax.load(name)


def test_a_snapshot_of_a_hub_cache_keeps_its_name(tmp_path):
    config = taesd_jax.VARIANTS["taesdxl"]
    folder = tmp_path / "models--madebyollin--taesdxl" / "snapshots" / ("0" * 40)
    taesd_jax.save(folder, random_model(config)[0], config.architecture)
    for source in (folder, folder / "diffusion_pytorch_model.safetensors"):
        assert taesd_jax.load(source).config.variant == "taesdxl"
    loaded = taesd_jax.load(folder.rename(tmp_path / "x")).config
    with pytest.raises(ValueError, match=r"with_variant\('taesd'\)"):
        taesd_jax.from_vae_latents(np.zeros((1, 2, 2, 4), "f4"), config=loaded)


def test_a_pair_of_two_models_is_noticed(tmp_path):
    for seed, name in ((0, "a"), (1, "b")):
        taesd_jax.save(tmp_path / name, *random_model(SMALL, seed), format="original")
    taesd_jax.load(tmp_path / "a")
    (tmp_path / "b_decoder.safetensors").rename(tmp_path / "a_decoder.safetensors")
    with pytest.warns(UserWarning, match="a_encoder.*a_decoder.*not saved together"):
        taesd_jax.load(tmp_path / "a")
    # A component that was saved alone, as after tuning it, says nothing of the other.
    params, config = random_model(SMALL, 2)
    taesd_jax.save(tmp_path / "a", {"decoder": params["decoder"]}, config, format="original")
    taesd_jax.load(tmp_path / "a")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "diffusion_pytorch_model.fp16"])
def test_the_config_beside_a_named_file_is_read(tmp_path, name):
    params, config = random_model(SMALL.replace(act_fn="silu", latent_magnitude=5.0))
    taesd_jax.save(tmp_path, params, config)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file = file.rename(tmp_path / f"{name}.safetensors")
    assert taesd_jax.load(file).config == config
    # Under any name, if the config is one of this class.
    assert taesd_jax.load(file.rename(tmp_path / "x.safetensors")).config == config
    (tmp_path / "config.json").write_text('{"model_type": "clip", "act_fn": "gelu"}')
    assert taesd_jax.load(tmp_path / "x.safetensors").config.act_fn == "relu"


@pytest.mark.parametrize("format", ["flax", "comfyui"])
def test_names_that_diffusers_reads_are_for_its_format(tmp_path, format):
    params, config = random_model(taesd_jax.VARIANTS["taef1"].replace(act_fn="relu"))
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        with pytest.raises(CheckpointError, match="diffusers would read"):
            taesd_jax.save(tmp_path / name, params, config, format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["diffusers", "original", "comfyui", "flax"])
def test_big_endian_params_are_stored_as_they_are(tmp_path, format):
    params, config = random_model(taesd_jax.VARIANTS["taesd"])
    kernel = params["decoder"]["layers_1"]["kernel"]
    params["decoder"]["layers_1"]["kernel"] = kernel.astype(">f4")
    path = tmp_path / "x.safetensors"
    taesd_jax.save(path, params, config, format=format)
    stored = taesd_jax.load(path).params["decoder"]["layers_1"]["kernel"]
    assert stored.dtype.isnative
    np.testing.assert_array_equal(stored, kernel)

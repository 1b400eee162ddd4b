"""Checkpoints: every scheme in and out, bit for bit, and strict about everything else."""

import json
import os
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from models import (
    NARROWING,
    NARROWING_IN_BLOCKS,
    SMALL,
    assemble,
    named,
    part,
    random_model,
    random_state,
    random_states,
)
from safetensors.numpy import load_file, save_file

import taesd_jax
from taesd_jax import (
    VARIANTS,
    AutoencoderTinyConfig,
    CheckpointError,
    CheckpointNotFoundError,
    weights,
)
from taesd_jax.weights.names import PREFIXES, file_name, flax_path, to_flax, to_torch
from taesd_jax.weights.sources import label_of

CONFIGS = {
    **VARIANTS,
    "small": SMALL,
    "wide": AutoencoderTinyConfig(decoder_block_out_channels=(192,) * 4),
    "narrowing": NARROWING,
    "narrowing in blocks": NARROWING_IN_BLOCKS,
    "few blocks": AutoencoderTinyConfig(
        num_encoder_blocks=(0, 1, 2, 1), num_decoder_blocks=(1, 0, 2, 0)
    ),
    "one stage": AutoencoderTinyConfig(
        encoder_block_out_channels=(8,),
        num_encoder_blocks=(1,),
        decoder_block_out_channels=(8,),
        num_decoder_blocks=(1,),
    ),
    "rgba": AutoencoderTinyConfig(in_channels=4, out_channels=4),
}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def same(a, b):
    """Whether two trees have the same keys, dtypes and bits."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def write_pair(folder, name="taesd", config=SMALL, dtype=np.float32):
    for half in ("encoder", "decoder"):
        save_file(random_state(half, config, dtype=dtype), folder / f"{name}_{half}.safetensors")
    return folder / name


@pytest.mark.parametrize("scheme", ["module", "diffusers", "comfyui"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_architecture_is_read_from_names_and_shapes(name, scheme):
    config = CONFIGS[name]
    params, got, found = assemble(named(random_states(config), scheme))
    assert got == config.architecture
    assert found == scheme
    assert same(params, random_model(config)[0])


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_one_half_is_recognised_alone(name, half):
    config = CONFIGS[name]
    params, got, found = assemble(random_state(half, config))
    assert found == "original"
    assert list(params) == [half]
    prefix = f"num_{half}", f"{half}_", "latent", "pool"
    fields = [f for f in config.to_dict() if f.startswith(prefix)]
    assert {f: getattr(got, f) for f in fields} == {f: getattr(config, f) for f in fields}


def test_a_published_half_brings_the_config_of_its_whole():
    for name in ("taesana", "taef2", "taesd3"):
        for half in ("encoder", "decoder"):
            config = assemble(random_state(half, VARIANTS[name])).config
            assert config == VARIANTS[name].architecture


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("layout", ["diffusers", "original", "comfyui", "flax"])
@pytest.mark.parametrize("name", ["taesdxl", "taef2", "taesana", "small", "narrowing in blocks"])
def test_round_trips_return_the_same_bits(tmp_path, name, layout, dtype):
    params, config = random_model(CONFIGS[name], dtype=dtype)
    if name.startswith(("small", "narrowing")) and layout != "diffusers":
        config = config.replace(raw_latent_scale=0.7, raw_latent_shift=0.1)
    path = tmp_path / "taesdxl.safetensors"
    if layout == "diffusers" and not config.fits_diffusers:
        with pytest.raises(CheckpointError, match="diffusers' AutoencoderTiny cannot express"):
            taesd_jax.save(path, params, config, layout=layout)
        assert not list(tmp_path.iterdir())
        return
    written = taesd_jax.save(path, params, config, layout=layout)
    assert all(p.is_file() for p in written)
    again = taesd_jax.load(path)
    assert same(again.params, params)
    assert again.config == config
    assert again.scheme == layout
    if layout != "diffusers":
        assert again.config.to_dict() == config.to_dict()
    # Writing what was read gives the same file.
    second = taesd_jax.save(tmp_path / "again", again.params, again.config, layout=layout)
    for a, b in zip(written, second, strict=True):
        if a.suffix == ".safetensors":
            assert same(load_file(a), load_file(b))


def test_every_field_survives_our_own_layouts(tmp_path):
    config = SMALL.replace(
        act_fn="silu",
        latent_magnitude=4.0,
        latent_shift=0.25,
        force_upcast=True,
        scaling_factor=0.5,
        shift_factor=0.1,
        raw_latent_scale=0.7,
        raw_latent_shift=0.0,
    )
    params, _ = random_model(SMALL)
    for layout in ("original", "comfyui", "flax"):
        path = tmp_path / f"{layout}.safetensors"
        taesd_jax.save(path, params, config, layout=layout)
        assert taesd_jax.load(path).config.to_dict() == config.to_dict()
    taesd_jax.save(tmp_path / "folder", params, config, layout="diffusers")
    unlabelled = config.replace(raw_latent_scale=None, raw_latent_shift=None)
    assert taesd_jax.load(tmp_path / "folder").config == unlabelled


def test_names_of_every_scheme():
    key = "3.conv.0.weight"
    assert {s: file_name(key, "decoder", s) for s in PREFIXES} == {
        "original": "3.conv.0.weight",
        "module": "decoder.3.conv.0.weight",
        "diffusers": "decoder.layers.2.conv.0.weight",
        "comfyui": "taesd_decoder.3.conv.0.weight",
        "flax": "decoder.layers_3.conv_0.kernel",
    }
    assert file_name(key, "encoder", "diffusers") == "encoder.layers.3.conv.0.weight"
    assert flax_path("3.pool.1.weight") == ("layers_3", "pool_1", "scale")
    assert flax_path("12.skip.weight") == ("layers_12", "skip", "kernel")


def test_flax_files_hold_the_names_of_the_params(tmp_path):
    params, config = random_model(VARIANTS["taef2"])
    taesd_jax.save(tmp_path / "x.safetensors", params, config, layout="flax")
    stored = load_file(tmp_path / "x.safetensors")
    assert "encoder.layers_11.pool_1.scale" in stored
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert set(stored) == {".".join(key.key for key in path) for path, _ in leaves}


def test_comfyui_scalars_tell_the_variant():
    tensors = named(random_states(VARIANTS["taesd"]), "comfyui")
    assert assemble(tensors).config.variant is None
    assert assemble(tensors, label="taesdxl").config.variant == "taesdxl"
    for name in ("taesd", "taesdxl"):
        row = VARIANTS[name]
        scalars = {
            "vae_scale": np.float32(row.raw_latent_scale).reshape(()),
            "vae_shift": np.zeros((), np.float32),
        }
        assert assemble(tensors | scalars, label="taesdxl").config.variant == name
    with pytest.raises(CheckpointError, match="vae_scale must be one number"):
        assemble(tensors | {"vae_scale": np.zeros(3, np.float32)})


def test_comfyui_needs_the_variant(tmp_path):
    params, config, _ = assemble(named(random_states(VARIANTS["taesd3"]), "module"))
    with pytest.raises(CheckpointError, match="whether this is taesd3 or taef1; name it"):
        taesd_jax.save(tmp_path / "x.safetensors", params, config, layout="comfyui")
    taesd_jax.save(tmp_path / "x.safetensors", params, config.labelled("taef1"), layout="comfyui")
    stored = load_file(tmp_path / "x.safetensors")
    assert stored["vae_scale"] == np.float32(0.3611)
    assert stored["vae_shift"] == np.float32(0.1159)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_whole_layouts_need_both_halves(tmp_path, layout):
    params, config = random_model(SMALL)
    del params["encoder"]
    with pytest.raises(CheckpointError, match="needs both halves, but only the decoder is loaded"):
        taesd_jax.save(tmp_path / "x", params, config, layout=layout)


def test_names_label_but_never_decide(tmp_path):
    assert label_of("TAESDXL_decoder") == "taesdxl"
    assert label_of("sdxl-vae") == ""
    # Files named after taesd3 that hold a 4-channel model are a 4-channel model.
    path = write_pair(tmp_path, "taesd3", VARIANTS["taesd"])
    config = taesd_jax.load(path).config
    assert (config.latent_channels, config.variant) == (4, None)
    write_pair(tmp_path, "taesdxl", VARIANTS["taesd"])
    assert taesd_jax.load(tmp_path / "taesdxl").config.variant == "taesdxl"


def test_one_file_of_a_pair_is_half_a_model(tmp_path):
    path = write_pair(tmp_path)
    (tmp_path / "taesd_encoder.safetensors").unlink()
    for source in (path, tmp_path / "taesd_decoder.safetensors"):
        vae = taesd_jax.AutoencoderTiny.from_pretrained(source)
        assert list(vae.params) == ["decoder"]
        with pytest.raises(ValueError, match="the encoder is not loaded; .*taesd_encoder.safetens"):
            vae.encode(np.zeros((1, 8, 8, 3), np.float32))


def test_folders(tmp_path):
    write_pair(tmp_path)
    assert set(taesd_jax.load(tmp_path).params) == {"encoder", "decoder"}
    assert taesd_jax.load(tmp_path.parent, subfolder=tmp_path.name).config == SMALL
    shutil.copy(tmp_path / "taesd_encoder.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="several checkpoints in .*name one of them"):
        taesd_jax.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="expected diffusion_pytorch_model"):
        taesd_jax.load(tmp_path / "empty")


def test_config_must_describe_the_tensors(tmp_path):
    params, config = random_model(SMALL)
    taesd_jax.save(tmp_path, params, config)
    fields = json.loads((tmp_path / "config.json").read_text())

    def with_config(text):
        (tmp_path / "config.json").write_text(text)
        return taesd_jax.load(tmp_path)

    with pytest.raises(CheckpointError, match="does not describe the tensors:\n.*expected shape"):
        with_config(json.dumps(fields | {"latent_channels": 16}))
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        with_config("{")
    with pytest.raises(CheckpointError, match="expected a JSON object, got list"):
        with_config("[]")
    with pytest.raises(CheckpointError, match="must be of class AutoencoderTiny"):
        with_config(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(CheckpointError, match="act_fn must be"):
        with_config(json.dumps(fields | {"act_fn": "exec"}))
    assert with_config(json.dumps(fields | {"act_fn": "silu"})).config.act_fn == "silu"


def test_every_wrong_tensor_is_listed_at_once():
    tensors = named(random_states(VARIANTS["taesd"]), "diffusers")
    del tensors["encoder.layers.0.bias"], tensors["decoder.layers.4.conv.2.weight"]
    tensors["decoder.layers.2.conv.0.bias"] = np.zeros(63, np.float32)
    tensors["encoder.layers.3.conv.6.weight"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as error:
        assemble(tensors)
    lines = str(error.value).split("\n")
    assert lines[0] == (
        "tensors: the tensors fit no model of this family; the nearest is taesd or taesdxl "
        "(4 latent channels, 8x):"
    )
    assert sorted(lines[1:]) == [
        "  decoder 3.conv.0.bias: expected shape (64,), got (63,)",
        "  decoder 5.conv.2.weight: missing",
        "  encoder 0.bias: missing",
        "  encoder 3.conv.6.weight: unexpected",
    ]


def test_a_custom_model_is_compared_with_itself():
    tensors = named(random_states(CONFIGS["wide"]), "module")
    del tensors["decoder.5.conv.2.bias"]
    with pytest.raises(CheckpointError, match="fit no model.*:\n  decoder 5.conv.2.bias: missing$"):
        assemble(tensors)


@pytest.mark.parametrize("dropped", ["11.pool.0.weight", "12.pool.1.bias", "13.pool.3.weight"])
def test_a_lost_pool_weight_is_noticed(dropped):
    state = random_state("encoder", VARIANTS["taef2"])
    del state[dropped]
    with pytest.raises(CheckpointError, match=f"encoder {dropped}: missing"):
        assemble(state)


def test_every_single_loss_is_noticed():
    # Whatever one tensor is lost, no other architecture fits what is left.
    for config in (SMALL, VARIANTS["taef2"], VARIANTS["taesana"]):
        shapes = {k: np.broadcast_to(np.float32(0), v.shape)
                  for k, v in named(random_states(config), "module").items()}  # fmt: skip
        for name in shapes:
            rest = {k: v for k, v in shapes.items() if k != name}
            with pytest.raises(CheckpointError):
                assemble(rest)


def test_an_encoder_without_its_first_layer_is_still_an_encoder():
    for config in (SMALL, VARIANTS["taesana"]):
        state = random_state("encoder", config)
        del state["0.weight"], state["0.bias"]
        with pytest.raises(CheckpointError, match="encoder 0.weight: missing"):
            assemble(state)


def test_only_the_exact_flax_spelling_is_read():
    tensors = named(random_states(SMALL), "flax")
    assert assemble(tensors).scheme == "flax"
    for extra in (
        "encoder.layers_0.weight",
        "encoder.layers_0.scale",
        "encoder.layers_1.conv.0.kernel",
        "encoder.layers_01.kernel",
    ):
        wrong = tensors | {extra: np.zeros((3, 3, 3, 8), np.float32)}
        with pytest.raises(CheckpointError, match=rf"belong to no half .*\['{extra}'\]"):
            assemble(wrong)


def test_a_pair_may_mix_schemes():
    states = random_states(SMALL)
    encoder = {file_name(k, "encoder", "flax"): to_flax(v) for k, v in states["encoder"].items()}
    parts = [part(encoder), part(states["decoder"])]
    for order in (parts, parts[::-1]):
        params, _, scheme = weights.assemble(order, fields={}, label="", origin="x")
        assert same(params, {h: random_model(SMALL)[0][h] for h in params})
        assert scheme == "flax/original"


def test_configs_of_a_pair_must_agree(tmp_path):
    path = tmp_path / "m"
    params, _ = random_model(VARIANTS["taesd"])
    taesd_jax.save(path, params, VARIANTS["taesdxl"], layout="original")
    decoder = {"decoder": params["decoder"]}
    taesd_jax.save(path, decoder, VARIANTS["taesd"], layout="original")
    with pytest.raises(CheckpointError, match="different models: the configs inside .* differ"):
        taesd_jax.load(path)


def test_scalars_must_agree_with_the_config_inside(tmp_path):
    path = tmp_path / "c.safetensors"
    params, _ = random_model(SMALL)
    config = SMALL.replace(raw_latent_scale=0.18215, raw_latent_shift=0.0)
    taesd_jax.save(path, params, config, layout="comfyui")
    assert taesd_jax.load(path).config.raw_latent_scale == 0.18215
    tensors = load_file(path) | {"vae_scale": np.array(0.13025, np.float32)}
    save_file(tensors, path, metadata={"config": json.dumps(config.to_dict())})
    with pytest.raises(CheckpointError, match="vae_shift are 0.13025 and 0, but the config inside"):
        taesd_jax.load(path)
    for value in (np.nan, np.inf, -1):
        scalars = {"vae_scale": np.float32(value).reshape(())}
        with pytest.raises(CheckpointError, match="raw_latent_scale must be"):
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


def test_halves_of_two_models_are_refused():
    def mix(encoder, decoder):
        states = {
            "encoder": random_state("encoder", VARIANTS[encoder]),
            "decoder": random_state("decoder", VARIANTS[decoder]),
        }
        return assemble(named(states, "module"))

    with pytest.raises(
        CheckpointError,
        match=r"the encoder is of taesd3 or taef1 \(16 latent channels, 8x\), the decoder of taesd",
    ):
        mix("taesd3", "taesd")
    with pytest.raises(CheckpointError, match="encoder and decoder belong to different models"):
        mix("taef2", "taesana")
    state = random_state("encoder", SMALL)
    with pytest.raises(CheckpointError, match="two encoders"):
        weights.assemble([part(state, "a"), part(state, "b")], fields={}, label="", origin="x")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tiny_vae.encoder.layers.0.weight", "extra_encoder.conv.weight"], "fal's FLUX.2-Tiny"),
        (["decoder.up_blocks.0.resnets.0.conv1.weight", "quant_conv.weight"], "full AutoencoderKL"),
        (["encoder.down.0.block.0.conv1.weight", "encoder.mid.block_1.x"], "full VAE in its orig"),
        (["model.weight"], "no tiny autoencoder of this family: expected tensors such as"),
        ([], "got 0 tensors: none"),
    ],
)
def test_other_projects_are_named(names, message):
    with pytest.raises(CheckpointError, match=message):
        assemble({name: np.zeros((1, 1, 3, 3), np.float32) for name in names})


def test_a_stray_tensor_is_named():
    tensors = named(random_states(SMALL), "diffusers") | {"step": np.zeros(1, np.float32)}
    with pytest.raises(CheckpointError, match=r"tensors that belong to no half .*: \['step'\]"):
        assemble(tensors)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(value):
    state = random_state("decoder", SMALL)
    state["3.conv.2.bias"][4] = value
    with pytest.raises(CheckpointError, match="NaN or infinity: decoder.layers_3.conv_2.bias"):
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
        message = "no checkpoint '.*nothing.safetensors': expected a file, a folder, a pair"
        self.refuse(tmp_path / "nothing.safetensors", message, CheckpointNotFoundError)
        self.refuse("./nothing", "no checkpoint './nothing'", FileNotFoundError)
        self.refuse("nothing", "or one of small, taesd, taesdxl", CheckpointNotFoundError)
        self.refuse("x" * 5000, "no checkpoint 'xxx", CheckpointNotFoundError)
        self.refuse("~nosuchuser/x", "no checkpoint '~nosuchuser", CheckpointNotFoundError)

    def test_empty(self, file):
        file.write_bytes(b"")
        self.refuse(file, "the file is empty")

    @pytest.mark.parametrize("keep", [1, 7, 8, 100, 3000, -1])
    def test_truncated(self, file, keep):
        file.write_bytes(file.read_bytes()[:keep])
        self.refuse(file, "not a whole safetensors file")

    def test_not_safetensors(self, file):
        file.write_bytes(b"\x89PNG\r\n" * 100)
        self.refuse(file, "not a whole safetensors file")

    def test_huge_shapes(self, file):
        header = {"0.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
        self.refuse(file, "not a whole safetensors file")

    def test_huge_header(self, file):
        file.write_bytes((2**62).to_bytes(8, "little") + b"{}")
        self.refuse(file, "not a whole safetensors file")

    def test_other_dtypes(self, file):
        save_file({"1.weight": np.zeros((8, 4, 3, 3), np.int8)}, file)
        self.refuse(file, "tensors must be one of F32, F16, BF16; 1.weight is I8")

    def test_folder_in_place_of_a_file(self, tmp_path):
        (tmp_path / "x.safetensors").mkdir()
        self.refuse(tmp_path / "x.safetensors", "no checkpoint in")

    def test_bad_metadata(self, file):
        for text in ("{", "[]", '{"latent_channels": []}'):
            save_file(random_state("decoder", SMALL), file, metadata={"config": text})
            self.refuse(file, "config")

    @pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt", "x.bin"])
    def test_pickles_are_not_opened(self, tmp_path, name):
        path = tmp_path / name
        path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        self.refuse(path, "is a PyTorch pickle, which is not loaded here; .*taesd-jax convert")
        self.refuse(tmp_path / f"no-{name}", "no such file", CheckpointNotFoundError)

    def test_a_pair_of_pickles_is_named_as_such(self, tmp_path):
        (tmp_path / "taef2_decoder.pth").write_bytes(b"x")
        self.refuse(tmp_path / "taef2", "is a PyTorch pickle")
        self.refuse(tmp_path, "taef2_decoder.pth are PyTorch pickles, name one", FileNotFoundError)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    params, config = random_model(SMALL)
    taesd_jax.save(path, params, config, layout="flax")
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        taesd_jax.save(path, random_model(SMALL, seed=1)[0], config, layout="flax")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_pairs_are_replaced_together(tmp_path, monkeypatch):
    path = write_pair(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    real, calls = os.fsync, []

    def fail_second(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_second)
    with pytest.raises(OSError, match="No space left"):
        taesd_jax.save(path, *random_model(SMALL, seed=1), layout="original")
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_params_that_do_not_fit_are_not_written(tmp_path):
    params, config = random_model(SMALL)
    params["decoder"]["layers_1"]["bias"] = np.zeros(5, np.float32)
    del params["encoder"]["layers_0"]
    params["decoder"]["layers_99"] = {"bias": np.zeros(2)}
    with pytest.raises(CheckpointError, match="the params do not fit the config") as error:
        taesd_jax.save(tmp_path / "x", params, config)
    assert str(error.value).split("\n")[1:] == [
        "  encoder.layers_0.kernel: expected (8, 3, 3, 3), got nothing",
        "  encoder.layers_0.bias: expected (8,), got nothing",
        "  decoder.layers_1.bias: expected (8,), got (5,)",
        "  decoder.layers_99.bias: expected nothing, got (2,)",
    ]
    with pytest.raises(CheckpointError, match="params must have 'encoder' or 'decoder'"):
        taesd_jax.save(tmp_path / "x", {}, config)
    params, _ = random_model(SMALL)
    params["decoder"]["layers_1"]["bias"] = np.full(8, np.nan, np.float32)
    params["encoder"]["layers_0"]["bias"] = np.zeros(8, np.float64)
    with pytest.raises(
        CheckpointError,
        match=r"must be finite and of .*: encoder.layers_0.bias, decoder.layers_1.bias",
    ):
        taesd_jax.save(tmp_path / "x", params, config)
    for layout in ("pth", "module", "msgpack"):
        with pytest.raises(ValueError, match="layout must be one of diffusers, original, comfyui"):
            taesd_jax.save(tmp_path / "x", random_model(SMALL)[0], config, layout=layout)
    assert not list(tmp_path.iterdir())


def test_links_stay_links_and_modes_stay(tmp_path):
    params, config = random_model(SMALL)
    target, link = tmp_path / "target.safetensors", tmp_path / "link.safetensors"
    target.write_bytes(b"")
    target.chmod(0o600)
    link.symlink_to(target)
    taesd_jax.save(link, params, config, layout="flax")
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert taesd_jax.load(target).config == config


def test_kernels_are_transposed_once():
    params, _ = random_model(SMALL)
    state = random_state("decoder", SMALL)
    kernel = params["decoder"]["layers_3"]["conv_0"]["kernel"]
    np.testing.assert_array_equal(to_torch(kernel), state["3.conv.0.weight"])
    assert kernel.flags.c_contiguous

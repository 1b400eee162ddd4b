"""Formats of checkpoints: each in and out, bit for bit."""

import os

import jax
import ml_dtypes
import numpy as np
import pytest
from models import (
    CONFIGS,
    SMALL,
    assemble,
    named,
    random_model,
    random_state,
    random_states,
    same,
    write_pair,
)
from safetensors.numpy import load_file

import taesd_jax
from taesd_jax import (
    VARIANTS,
    CheckpointError,
)
from taesd_jax.weights.names import PREFIXES, file_name, flax_name, to_torch

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("format", ["diffusers", "original", "comfyui", "flax"])
@pytest.mark.parametrize("name", ["taesdxl", "taef2", "taesana", "small", "narrowing in blocks"])
def test_round_trips_return_the_same_bits(tmp_path, name, format, dtype):
    params, config = random_model(CONFIGS[name], dtype=dtype)
    if name.startswith(("small", "narrowing")) and format != "diffusers":
        config = config.replace(raw_latent_scale=0.7, raw_latent_shift=0.1)
    path = tmp_path / "taesdxl.safetensors"
    if format == "diffusers" and not config.fits_diffusers:
        with pytest.raises(CheckpointError, match="'original', 'comfyui' or 'flax'"):
            taesd_jax.save(path, params, config, format=format)
        assert not list(tmp_path.iterdir())
        return
    written = taesd_jax.save(path, params, config, format=format)
    assert all(p.is_file() for p in written)
    again = taesd_jax.load(path)
    assert same(again.params, params)
    assert again.config == config
    assert again.format == format
    if format != "diffusers":
        assert again.config.to_dict() == config.to_dict()
    # Writing what was read gives the same file.
    second = taesd_jax.save(tmp_path / "again", again.params, again.config, format=format)
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
    for format in ("original", "comfyui", "flax"):
        path = tmp_path / f"{format}.safetensors"
        taesd_jax.save(path, params, config, format=format)
        assert taesd_jax.load(path).config.to_dict() == config.to_dict()
    taesd_jax.save(tmp_path / "folder", params, config, format="diffusers")
    assert taesd_jax.load(tmp_path / "folder").config.to_dict() == config.to_dict()


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
    assert flax_name("3.pool.1.weight", "encoder") == "encoder.layers_3.pool_1.scale"
    assert flax_name("12.skip.weight", "decoder") == "decoder.layers_12.skip.kernel"


def test_flax_files_hold_the_names_of_the_params(tmp_path):
    params, config = random_model(VARIANTS["taef2"])
    taesd_jax.save(tmp_path / "x.safetensors", params, config, format="flax")
    stored = load_file(tmp_path / "x.safetensors")
    assert "encoder.layers_11.pool_1.scale" in stored
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert set(stored) == {".".join(key.key for key in path) for path, _ in leaves}


def test_comfyui_scalars_tell_the_variant():
    tensors = named(random_states(VARIANTS["taesd"]), "comfyui")
    assert assemble(tensors).config.variant is None
    assert assemble(tensors, variant="taesdxl").config.variant == "taesdxl"
    for name in ("taesd", "taesdxl"):
        row = VARIANTS[name]
        scalars = {
            "vae_scale": np.float32(row.raw_latent_scale).reshape(()),
            "vae_shift": np.zeros((), np.float32),
        }
        assert assemble(tensors | scalars, variant="taesdxl").config.variant == name
    with pytest.raises(CheckpointError, match="vae_scale"):
        assemble(tensors | {"vae_scale": np.zeros(3, np.float32)})


def test_comfyui_needs_the_variant(tmp_path):
    params, config, _ = assemble(named(random_states(VARIANTS["taesd3"]), "module"))
    with pytest.raises(CheckpointError, match="taesd3 and taef1"):
        taesd_jax.save(tmp_path / "x.safetensors", params, config, format="comfyui")
    taesd_jax.save(
        tmp_path / "x.safetensors", params, config.with_variant("taef1"), format="comfyui"
    )
    stored = load_file(tmp_path / "x.safetensors")
    assert stored["vae_scale"] == np.float32(0.3611)
    assert stored["vae_shift"] == np.float32(0.1159)


@pytest.mark.parametrize("format", ["diffusers", "comfyui"])
def test_some_formats_need_both_components(tmp_path, format):
    params, config = random_model(SMALL)
    del params["encoder"]
    with pytest.raises(CheckpointError, match="only the decoder"):
        taesd_jax.save(tmp_path / "x", params, config, format=format)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    params, config = random_model(SMALL)
    taesd_jax.save(path, params, config, format="flax")
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        taesd_jax.save(path, random_model(SMALL, seed=1)[0], config, format="flax")
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
        taesd_jax.save(path, *random_model(SMALL, seed=1), format="original")
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_params_that_do_not_fit_are_not_written(tmp_path):
    params, config = random_model(SMALL)
    params["decoder"]["layers_1"]["bias"] = np.zeros(5, np.float32)
    del params["encoder"]["layers_0"]
    params["decoder"]["layers_99"] = {"bias": np.zeros(2)}
    with pytest.raises(CheckpointError, match="params") as error:
        taesd_jax.save(tmp_path / "x", params, config)
    # Every one with its name and what is there in place of what.
    expected = [
        ("encoder.layers_0.kernel", "(8, 3, 3, 3)"),
        ("encoder.layers_0.bias", "(8,)"),
        ("decoder.layers_1.bias", "(8,)", "(5,)"),
        ("decoder.layers_99.bias", "(2,)"),
    ]
    for line, words in zip(str(error.value).split("\n")[1:], expected, strict=True):
        assert all(word in line for word in words), line
    with pytest.raises(CheckpointError, match="'encoder' or 'decoder'"):
        taesd_jax.save(tmp_path / "x", {}, config)
    params, _ = random_model(SMALL)
    params["decoder"]["layers_1"]["bias"] = np.full(8, np.nan, np.float32)
    params["encoder"]["layers_0"]["bias"] = np.zeros(8, np.float64)
    with pytest.raises(
        CheckpointError,
        match=r"encoder\.layers_0\.bias, decoder\.layers_1\.bias",
    ):
        taesd_jax.save(tmp_path / "x", params, config)
    for format in ("pth", "module", "msgpack"):
        with pytest.raises(ValueError, match=f"diffusers, original, comfyui.*'{format}'"):
            taesd_jax.save(tmp_path / "x", random_model(SMALL)[0], config, format=format)
    assert not list(tmp_path.iterdir())


def test_links_stay_links_and_modes_stay(tmp_path):
    params, config = random_model(SMALL)
    target, link = tmp_path / "target.safetensors", tmp_path / "link.safetensors"
    target.write_bytes(b"")
    target.chmod(0o600)
    link.symlink_to(target)
    taesd_jax.save(link, params, config, format="flax")
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert taesd_jax.load(target).config == config


def test_kernels_are_transposed_once():
    params, _ = random_model(SMALL)
    state = random_state("decoder", SMALL)
    kernel = params["decoder"]["layers_3"]["conv_0"]["kernel"]
    np.testing.assert_array_equal(to_torch(kernel), state["3.conv.0.weight"])
    assert kernel.flags.c_contiguous

"""Files of thumbnails: found by their decoder, shared by writers, strict with strangers."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import SMALL, random_model, with_thumbnails
from safetensors.numpy import load_file, save_file

import taesd_jax
from taesd_jax import VARIANTS, AutoencoderTiny, CheckpointError
from taesd_jax.weights.thumbnail_files import BUNDLED_FILE, MAX_BYTES, read_thumbnails

SHORT = SMALL.replace(num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(2, 1, 2, 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_thumbnails_are_found_by_the_decoder(tmp_path, dtype):
    path = tmp_path / "thumbnails.safetensors"
    mine, config = random_model(SHORT)
    theirs, _ = random_model(SHORT, seed=1)
    mine, theirs = (with_thumbnails(p, config, seed) for seed, p in enumerate((mine, theirs)))
    taesd_jax.save_thumbnails(path, theirs, name="theirs")
    taesd_jax.save_thumbnails(path, mine, name="mine", notes={"psnr": {"2": 31.0}})
    stored = {"decoder": jax.tree.map(lambda p: jnp.asarray(p, dtype), mine["decoder"])}
    loaded = taesd_jax.add_thumbnails(stored | {"thumbnails": theirs["thumbnails"]}, path)
    jax.tree.map(np.testing.assert_array_equal, loaded["thumbnails"], mine["thumbnails"])
    jax.tree.map(np.testing.assert_array_equal, loaded["decoder"], stored["decoder"])
    assert read_thumbnails(path)["mine"].notes == {"psnr": {"2": 31.0}}


def changed(params, how):
    rng = np.random.default_rng(0)
    tree = jax.tree.map(how, params["decoder"])
    noise = jax.tree.map(lambda p: 0.02 * p.std() * rng.standard_normal(p.shape).astype("f"), tree)
    return {"decoder": jax.tree.map(np.add, tree, noise) if how is np.copy else tree}


@pytest.mark.parametrize(
    "how",
    [np.copy, lambda p: p * np.float32(1.01), lambda p: -p, lambda p: p[..., ::-1]],
    ids=["noise", "scaled", "negated", "permuted"],
)
def test_a_changed_decoder_has_no_thumbnails_of_another(tmp_path, how):
    params, config = random_model(SHORT)
    params = with_thumbnails(params, config)
    taesd_jax.save_thumbnails(tmp_path / "thumbnails.safetensors", params, name="mine")
    tuned = changed(params, how)
    with pytest.raises(CheckpointError, match=r"thumbnails\.safetensors.*mine"):
        taesd_jax.add_thumbnails(tuned, tmp_path / "thumbnails.safetensors")
    with pytest.raises(CheckpointError, match=r"thumbnails\.safetensors.*mine.*another name"):
        taesd_jax.save_thumbnails(tmp_path / "thumbnails.safetensors", tuned, name="mine")
    assert "thumbnails" not in taesd_jax.add_thumbnails(
        tuned | {"thumbnails": params["thumbnails"]}
    )
    assert taesd_jax.add_thumbnails({"encoder": {}}) == {"encoder": {}}


def test_names_and_absent_thumbnails_are_refused(tmp_path):
    params, config = random_model(SHORT)
    with pytest.raises(ValueError, match=r"dot.*'v1\.5'"):
        taesd_jax.save_thumbnails(tmp_path / "x", with_thumbnails(params, config), name="v1.5")
    with pytest.raises(ValueError, match="fit_thumbnails"):
        taesd_jax.save_thumbnails(tmp_path / "x", params, name="v1")
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_not_one_of_thumbnails(tmp_path):
    path = tmp_path / "x.safetensors"
    for name in ("a.2.kernel", "a.fingerprint", "b"):
        save_file({name: np.zeros(3, np.float32)}, path)
        with pytest.raises(CheckpointError, match=r"x\.safetensors.*taesd-jax fit-thumbnails"):
            read_thumbnails(path)


def test_saving_leaves_the_thumbnails_out(tmp_path):
    params, config = random_model(SHORT)
    vae = AutoencoderTiny(with_thumbnails(params, config), config)
    for format, name in (("diffusers", "folder"), ("flax", "f.safetensors"), ("original", "o")):
        vae.save_pretrained(tmp_path / name, format=format)
        loaded = taesd_jax.load(tmp_path / name).params
        assert loaded.keys() == {"encoder", "decoder"}


def test_what_the_bundled_thumbnails_say_of_themselves():
    entries = read_thumbnails(BUNDLED_FILE)
    assert sorted(entries) == ["small", "taef1", "taef2", "taesd", "taesd3", "taesdxl"]
    for name, entry in entries.items():
        four = name == "small" or VARIANTS[name].latent_channels == 4
        assert entry.notes["psnr"]["2"] >= (31 if four else 35)
        assert entry.notes["psnr"]["8"] >= 27
        assert {"astronaut.png", "coffee.png"} <= set(entry.notes["held_out"])
        assert not set(entry.notes["photographs"]) & set(entry.notes["held_out"])


@pytest.mark.weights
def test_every_bundled_thumbnail_is_found(published):
    for name in ("taesd3", "taef1"):
        assert "thumbnails" in taesd_jax.add_thumbnails(taesd_jax.load(published / name).params)


def test_two_that_save_at_once_are_both_kept(tmp_path):
    path, config = tmp_path / "thumbnails.safetensors", SHORT
    models = [with_thumbnails(random_model(config, seed)[0], config) for seed in range(4)]

    def write(i):
        taesd_jax.save_thumbnails(path, models[i], name=f"m{i}")

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_thumbnails(path)) == {"m0", "m1", "m2", "m3"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t | {"a.2.bias": t["a.2.bias"] * np.float32("inf")},
            r"NaN.*a\.2\.bias",
        ),
        (lambda t: t | {"a.2.bias": np.zeros(5, "f4")}, "taesd-jax fit-thumbnails"),
        (lambda t: t | {"a.2.kernel": t["a.2.kernel"][0]}, "taesd-jax fit-thumbnails"),
        (lambda t: t | {"a.fingerprint": np.zeros((4, 3), "f4")}, "taesd-jax fit-thumbnails"),
    ],
)
def test_thumbnails_from_strangers(tmp_path, change, message):
    params, config = random_model(SHORT)
    path = tmp_path / "thumbnails.safetensors"
    taesd_jax.save_thumbnails(path, with_thumbnails(params, config), name="a")
    save_file(change(load_file(path)), path)
    with pytest.raises(CheckpointError, match=message):
        read_thumbnails(path)


def test_thumbnails_larger_than_their_bound_are_not_read(tmp_path):
    path = tmp_path / "thumbnails.safetensors"
    header = {
        "a.2.kernel": {"dtype": "F32", "shape": [3, 3, 10**7, 3], "data_offsets": [0, 108 * 10**7]},
        "a.2.bias": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "a.fingerprint": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
    }
    place = 0
    for part in header.values():
        size = 4 * int(np.prod(part["shape"]))
        part["data_offsets"] = [place, place := place + size]
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    with pytest.raises(CheckpointError, match=f"at most {MAX_BYTES} bytes"):
        read_thumbnails(path)

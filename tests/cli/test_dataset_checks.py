"""`check-dataset` and `decode-dataset`."""

import json

import jax
import numpy as np
import pytest
from dataset_files import make_records, write_dataset
from models import ONE_BLOCK, SHORT, random_model

import taesd_jax
from taesd_jax import AutoencoderTiny, cli
from taesd_jax.datasets import read
from taesd_jax.datasets.plan import make_plan
from taesd_jax.datasets.sources import Item
from taesd_jax.io import read_pixels, to_uint8


@pytest.fixture
def model(tmp_path):
    """A model of taesd's latents, and its file."""
    params, config = random_model(SHORT)
    taesd_jax.save(tmp_path / "model.safetensors", params, config)
    return tmp_path / "model.safetensors", AutoencoderTiny(params, config)


def test_a_whole_data_set_and_one_with_faults(tmp_path, capsys):
    records = make_records()
    items = [Item(record.key, record.key, (0, 0), {}) for record in records]
    make_plan(tmp_path, "/", items, {"shard_images": 30}, model="small")
    write_dataset(tmp_path, records)
    assert cli.main(["check-dataset", str(tmp_path)]) == 0
    assert "3 shards, 70 records, 0 failures: whole" in capsys.readouterr().out
    (tmp_path / "shard-00001.tar").unlink()
    assert cli.main(["check-dataset", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "shard-00001.tar: missing"
    (tmp_path / "manifest.json").unlink()
    assert cli.main(["check-dataset", str(tmp_path)]) == 1
    assert "no finished data set" in capsys.readouterr().err


@pytest.mark.parametrize("count", [None, 11])
def test_images_are_those_of_the_latents(tmp_path, model, monkeypatch, count):
    path, vae = model
    folder, target, shapes = tmp_path / "set", tmp_path / "images", []
    write_dataset(folder, make_records())
    decode = AutoencoderTiny.decode

    def watched(self, latents, **options):
        shapes.append(latents.shape)
        return decode(self, latents, **options)

    monkeypatch.setattr(AutoencoderTiny, "decode", watched)
    command = ["decode-dataset", str(folder), "-o", str(target), "--model", str(path)]
    command += ["--batch-size", "4", *(["--count", str(count)] if count else [])]
    assert cli.main(command) == 0
    # One program a shape.
    assert set(shapes) == {(4, 2, 3, 4), (4, 5, 1, 4)}
    records = list(read(folder))[:count]
    names = {f"{r.key}{'.flipped' * r.flipped}.png": r for r in records}
    assert names.keys() == {str(p.relative_to(target)) for p in target.rglob("*.png")}
    batch = jax.jit(lambda z: decode(vae, z).sample)
    for name, record in [*names.items()][-2:]:
        h, w = record.image_size
        image = np.asarray(batch(np.stack([record.latent] * 4)))[0, :h, :w]
        difference = read_pixels(target / name).astype(int) - to_uint8(image)
        assert np.abs(difference).max() <= 1  # batches may round at another place
    assert cli.main(command) == 0  # over files of its own


def test_another_model_or_none_is_refused(tmp_path, model, capsys):
    path, _ = model
    metadata = {"config": json.dumps(SHORT.to_dict()), "latent_space": "model"}
    write_dataset(tmp_path / "set", make_records(2), metadata=metadata)
    command = ["decode-dataset", str(tmp_path / "set"), "-o", str(tmp_path / "images")]
    assert cli.main(command) == 1
    assert "does not name its model; pass --model" in capsys.readouterr().err
    params, config = random_model(taesd_jax.VARIANTS["taesd3"].replace(**ONE_BLOCK))
    taesd_jax.save(path, params, config)
    assert cli.main([*command, "--model", str(path)]) == 1
    assert "cannot decode" in capsys.readouterr().err
    assert not (tmp_path / "images").exists()


def test_no_key_leads_out_of_the_folder(tmp_path, model):
    keys = ["../../up.jpg", "/root.jpg", "a/../b.jpg"]
    records = [r._replace(key=k) for r, k in zip(make_records(6)[::2], keys, strict=True)]
    write_dataset(tmp_path / "set", records)
    command = ["decode-dataset", str(tmp_path / "set"), "-o", str(tmp_path / "images")]
    assert cli.main([*command, "--model", str(model[0])]) == 0
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")}
    assert found == {"images/up.jpg.png", "images/root.jpg.png", "images/a/b.jpg.png"}

"""Shards: the model's own bits, every input once, batches of one shape, nothing half-written."""

import collections
import logging
import os

import jax
import numpy as np
import pytest
from encoded_datasets import (
    SIDE,
    compiled_shapes,
    contents,
    encoded,
    make_vae,
    noise,
    plan_of,
    write_source,
)

from taesd_jax import AutoencoderTiny
from taesd_jax.datasets import encoding, read, shards
from taesd_jax.datasets.batches import make_encoder
from taesd_jax.datasets.encoding import Options, encode_items, encode_shard
from taesd_jax.datasets.pictures import Geometry, buckets
from taesd_jax.datasets.records import pack
from taesd_jax.datasets.shards import finish
from taesd_jax.errors import MediaFileError
from taesd_jax.io import from_uint8, pad_image, read_image, read_pixels

# Batches on eight devices are other programs than one image on one.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def vae():
    return make_vae()


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source", size=(SIDE, SIDE))


def encode_all(plan, vae):
    """Encode all shards one by one and return the finished data set."""
    for index in range(plan.shards):
        encode_shard(plan, index, vae=vae)
    assert finish(plan)
    return read(plan.folder)


def test_latents_are_the_models(source, vae, tmp_path):
    dataset = encode_all(plan_of(source, tmp_path / "out", vae), vae)
    assert [record.key for record in dataset] == [f"{i:04}.png" for i in range(10)]
    for record in dataset:
        expected = vae.encode(read_image(source / record.key)[None]).latents[0]
        np.testing.assert_allclose(record.latent, expected, rtol=0, atol=ROUNDING)
        assert record[2:5] == ((SIDE, SIDE), (0, 0, SIDE, SIDE), False)


def test_one_device_gives_the_bits_of_encode(source, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: jax.devices()[:1])
    dataset = encode_all(plan_of(source, tmp_path / "out", vae), vae)
    # A batch filled up with zeros, as here: that decides in which order XLA adds.
    batch = np.zeros((make_encoder(vae).batch_of((SIDE, SIDE, 3)), SIDE, SIDE, 3), np.uint8)
    batch[:4] = [read_pixels(source / f"{i:04}.png") for i in range(4)]
    expected = np.asarray(vae.encode(from_uint8(batch)).latents)[:4]
    np.testing.assert_array_equal([dataset[i].latent for i in range(4)], expected)


def test_mirrored_images_are_stored_beside(source, vae, tmp_path):
    (source / "0001.png").write_bytes(b"broken")
    dataset = encode_all(plan_of(source, tmp_path / "out", vae, flip=True), vae)
    assert len(dataset) == 18
    keys = collections.Counter(record.key for record in dataset)
    assert set(keys.values()) == {2}
    for record in dataset:
        image = read_image(source / record.key)
        image = image[:, ::-1] if record.flipped else image
        expected = vae.encode(image[None].copy()).latents[0]
        np.testing.assert_allclose(record.latent, expected, rtol=0, atol=ROUNDING)


def test_kept_sizes(tmp_path, vae):
    source = write_source(tmp_path / "source", 3, size=(19, 33))
    dataset = encode_all(plan_of(source, tmp_path / "out", vae, geometry=Geometry((), 8)), vae)
    for record in dataset:
        padded = pad_image(read_image(source / record.key), 8)
        assert (record.image_size, record.latent.shape) == ((19, 33), (3, 5, 4))
        expected = vae.encode(padded[None]).latents[0]
        np.testing.assert_allclose(record.latent, expected, rtol=0, atol=ROUNDING)


def test_each_bucket_compiles_once(tmp_path, vae, caplog):
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        pixels = noise(tuple(rng.integers(20, 90, 2)), i)
        (source / f"{i}.png").write_bytes(encoded(pixels))
    geometry = buckets(SIDE, multiple=8)
    plan = plan_of(source, tmp_path / "out", vae, geometry=geometry, shard_images=25)
    jax.clear_caches()
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        dataset = encode_all(plan, vae)
    shapes = {record.latent.shape for record in dataset}
    counts = compiled_shapes(caplog)
    assert len(shapes) == len(counts) > 2, counts
    assert set(counts.values()) == {1}


def test_what_fails_is_listed_and_nothing_takes_its_place(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    (source / "0002.png").write_bytes(b"changed")
    (source / "0003.png").unlink()
    dataset = encode_all(plan, vae)
    failures = {failure.key: failure.reason for failure in dataset.manifest.failures}
    assert failures.keys() == {"0002.png", "0003.png"}
    assert "changed since" in failures["0002.png"]
    keys = [record.key for record in dataset]
    assert sorted([*keys, *failures]) == [f"{i:04}.png" for i in range(10)]
    # The failed ones leave the batch, not a gap in it.
    for record in dataset:
        expected = vae.encode(read_image(source / record.key)[None]).latents[0]
        np.testing.assert_allclose(record.latent, expected, rtol=0, atol=ROUNDING)


def test_a_shard_in_which_all_fail(tmp_path, vae):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(5):
        (source / f"{i}.png").write_bytes(b"")
    dataset = encode_all(plan_of(source, tmp_path / "out", vae), vae)
    assert (len(dataset), len(dataset.manifest.failures)) == (0, 5)


def test_latents_that_cannot_be_stored_fail(source, tmp_path):
    vae = make_vae()
    params = jax.tree.map(lambda p: p * 1e4, vae.params)
    vae = AutoencoderTiny(params, vae.config)
    plan = plan_of(source, tmp_path / "out", vae, store="float16", flip=True)
    dataset = encode_all(plan, vae)
    assert (len(dataset), len(dataset.manifest.failures)) == (0, 10)
    assert "float16 cannot hold" in dataset.manifest.failures[0].reason


def test_an_input_with_one_bad_latent_is_only_a_failure(source, vae, tmp_path, monkeypatch):
    def fail_some(record, store):
        if record.key == "0002.png" and not record.flipped:
            raise ValueError("cannot hold it")
        return pack(record, store)

    monkeypatch.setattr(encoding, "pack", fail_some)
    dataset = encode_all(plan_of(source, tmp_path / "out", vae, flip=True), vae)
    assert [failure.key for failure in dataset.manifest.failures] == ["0002.png"]
    assert len(dataset) == 18
    assert "0002.png" not in {record.key for record in dataset}


def test_too_many_failures_end_the_work(source, vae, tmp_path):
    for i in (0, 1, 2):
        (source / f"000{i}.png").write_bytes(b"")
    plan = plan_of(source, tmp_path / "out", vae)
    with pytest.raises(MediaFileError, match=r"--max-failures: 0000\.png.*0001\.png.*0002\.png"):
        encode_shard(plan, 0, vae=vae, options=Options(max_failures=2))
    assert len(encode_shard(plan, 0, vae=vae, options=Options(max_failures=3)).failures) == 3


@pytest.mark.parametrize("workers", [1, 7])
def test_the_same_bytes_whatever_the_order_of_work(source, vae, tmp_path, workers):
    plans = [plan_of(source, tmp_path / name, vae) for name in ("a", "b")]
    for plan, order in zip(plans, ([0, 1, 2], [2, 0, 1]), strict=True):
        assert finish(plan) is None
        for index in order:
            options = Options(workers if plan is plans[1] else None)
            encode_shard(plan, index, vae=vae, options=options)
        assert finish(plan)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_finished_shards_are_not_touched_and_damaged_ones_are_made_again(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    encode_all(plan, vae)
    before = contents(plan.folder)
    times = {path: path.stat().st_mtime_ns for path in plan.folder.glob("shard-*")}
    encode_all(plan, None)  # not even a model is needed
    assert times == {path: path.stat().st_mtime_ns for path in times}
    first, second, third = (plan.shard_path(i) for i in range(3))
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    third.with_suffix(".json").unlink()
    (plan.folder / f".{second.stem}.0123.tmp").write_bytes(b"left by a kill")
    encode_all(plan, vae)
    assert contents(plan.folder) == before


def test_another_model_is_refused(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    with pytest.raises(ValueError, match="the model that .*out was planned for"):
        encode_shard(plan, 0, vae=make_vae(1))


def test_an_error_leaves_nothing_behind(source, vae, tmp_path, monkeypatch):
    plan = plan_of(source, tmp_path / "out", vae)
    before = contents(plan.folder)

    def fail(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "digest_file", fail)
    with pytest.raises(OSError, match=r"No space left.*shard-00000\.tar"):
        encode_shard(plan, 0, vae=vae)
    assert contents(plan.folder) == before


def test_progress_adds_up(source, vae, tmp_path):
    (source / "0001.png").write_bytes(b"")
    plan = plan_of(source, tmp_path / "out", vae, shard_images=10)
    seen = []
    encode_items(plan, plan.items(0), make_encoder(vae), Options(observe=seen.append))
    last = seen[-1]
    assert (last.inputs, last.failures) == (10, 1)
    assert last.device > 0
    assert last.decoding > 0
    assert [*map(list, seen)] == sorted(map(list, seen))


def test_batches_are_divided_among_devices(vae):
    encoder = make_encoder(vae, batch_size=3)
    assert encoder.devices == len(jax.devices())
    assert encoder.batch_of((SIDE, SIDE, 3)) == encoder.devices
    latents = encoder.encode(np.zeros((encoder.devices, SIDE, SIDE, 3), np.uint8))
    assert len(latents.sharding.device_set) == encoder.devices


def test_pipes_are_not_waited_for(tmp_path, vae):
    source = write_source(tmp_path / "source", 2)
    plan = plan_of(source, tmp_path / "out", vae)
    (source / "0000.png").unlink()
    os.mkfifo(source / "0000.png")
    dataset = encode_all(plan, vae)
    assert [failure.key for failure in dataset.manifest.failures] == ["0000.png"]


def test_shards_have_the_same_columns(source, vae, tmp_path):
    pytest.importorskip("pyarrow")
    polars = pytest.importorskip("polars")
    (source / "0009.txt").write_text("a cat")  # of the last shard
    encode_all(plan_of(source, tmp_path / "out", vae, format="parquet"), vae)
    table = polars.read_parquet(tmp_path / "out" / "*.parquet")
    assert table["txt"].to_list() == [None] * 9 + ["a cat"]


def test_a_source_that_is_gone_is_no_failure_of_its_inputs(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    source.rename(tmp_path / "moved")
    with pytest.raises(MediaFileError, match="is gone"):
        encode_shard(plan, 0, vae=vae)
    moved = plan._replace(root=str(tmp_path / "moved"))
    assert encode_shard(moved, 0, vae=vae).failures == ()

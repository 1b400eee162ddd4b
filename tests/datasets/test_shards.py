"""Shards of every format: what is written is read back, with the same bytes each time."""

import numpy as np
import pytest
from dataset_files import METADATA, assert_same, format_of, make_records

from taesd_jax.datasets.formats import FORMATS
from taesd_jax.datasets.records import STORES, pack, unpack
from taesd_jax.errors import MediaFileError

# Half of the last place of the mantissa, relative; of uint8, half a step of the range of a channel.
ERRORS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("store", STORES)
def test_what_is_written_is_read(tmp_path, name, store):
    format, records = format_of(name), [pack(record, store) for record in make_records()]
    format.write_shard(tmp_path / "temporary", records, metadata=METADATA)
    shard = format.open_shard(tmp_path / "temporary")
    assert (shard.metadata, shard.length) == (METADATA, 70)
    for i, record in enumerate(records):
        fields = dict.fromkeys(["caption"]) | record.fields
        assert_same(shard.read(i), record._replace(fields=fields))


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_records_give_the_same_bytes(tmp_path, name):
    format = format_of(name)
    for file in ("a", "b"):
        path = tmp_path / file
        format.write_shard(path, make_records(), metadata=METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_shard_may_be_empty(tmp_path, name):
    format = format_of(name)
    format.write_shard(tmp_path / "a", [], metadata=METADATA)
    assert format.open_shard(tmp_path / "a").length == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_shard_is_named(tmp_path, name):
    format, path = format_of(name), tmp_path / "broken"
    path.write_bytes(b"abc" * 1000)
    with pytest.raises(MediaFileError, match="broken: cannot be read"):
        format.open_shard(path)


@pytest.mark.parametrize("store", ERRORS)
def test_floating_point_stores_round(store):
    (record,) = make_records(1)
    latent = unpack(pack(record, store)).latent
    assert latent.dtype == np.float32
    assert (np.abs(latent - record.latent) <= ERRORS[store] * np.abs(record.latent)).all()


def test_8_bits_have_a_range_for_each_channel():
    (record,) = make_records(1)
    latent = record.latent * np.float32([1, 100, 1e-3, 0]) + np.float32(5)
    stored = pack(record._replace(latent=latent), "uint8")
    assert (stored.latent.min((0, 1)) == 0).all()
    assert (stored.latent.max((0, 1)) == [255, 255, 255, 0]).all()
    step = np.ptp(latent, (0, 1)) / 255
    # Half a step, and float32's rounding of values around 5.
    assert (np.abs(unpack(stored).latent - latent) <= 0.5 * step + 1e-6).all()


def test_a_latent_that_a_store_cannot_hold_is_refused():
    (record,) = make_records(1)
    large = record._replace(latent=record.latent + np.float32(1e6))
    with pytest.raises(ValueError, match=r"a/0.é.jpg: .* float16 cannot hold"):
        pack(large, "float16")
    assert np.isfinite(pack(large, "uint8").low_high).all()
    with pytest.raises(ValueError, match="cannot hold"):
        pack(record._replace(latent=record.latent * np.nan), "uint8")


@pytest.mark.parametrize("name", FORMATS)
def test_a_field_may_have_any_name(name, tmp_path):
    format, (record, _) = format_of(name), make_records(2)
    record = record._replace(fields={"base64": "a text", "data": b"\x00", "both": [b"a", b"b"]})
    format.write_shard(tmp_path / "a", [record], metadata={})
    assert format.open_shard(tmp_path / "a").read(0).fields == record.fields


def test_parquet_keeps_names_of_its_own_and_mixed_fields(tmp_path):
    format, (a, b) = format_of("parquet"), make_records(2)
    for name in ("latent", "key"):
        record = a._replace(fields={name: 1})
        with pytest.raises(ValueError, match=f"fields must not .*{name}"):
            format.write_shard(tmp_path / "a", [record], metadata={})
    values = {"label": (1, ["cat"]), "large": (2**70, 1), "data": (b"a", 1)}
    mixed = [r._replace(fields={k: v[i] for k, v in values.items()}) for i, r in enumerate((a, b))]
    format.write_shard(tmp_path / "b", mixed, metadata={})
    shard = format.open_shard(tmp_path / "b")
    texts = [[*shard.read(i).fields.values()] for i in range(2)]
    assert texts == [["1", str(2**70), '{"base64": "YQ=="}'], ['["cat"]', "1", "1"]]

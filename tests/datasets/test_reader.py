"""Random access to data sets, in threads and other processes too."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from dataset_files import assert_same, make_records, write_dataset

from taesd_jax import VARIANTS
from taesd_jax.datasets import read, reader
from taesd_jax.datasets.formats import FORMATS
from taesd_jax.datasets.records import pack, unpack
from taesd_jax.errors import MediaFileError


@pytest.fixture(params=FORMATS)
def folder(tmp_path, request):
    write_dataset(tmp_path / "set", make_records(), request.param)
    return tmp_path / "set"


def test_records_by_index_and_in_order(folder):
    dataset, records = read(folder), [unpack(pack(r, "float16")) for r in make_records()]
    assert len(dataset) == 70
    for i in (69, 0, 29, 30, -1, np.int64(31)):
        assert_same(dataset[i], records[i]._replace(fields=dataset[i].fields))
    assert [r.key for r in dataset] == [r.key for r in records]
    assert dataset.config == VARIANTS["taesd"]
    for i in (70, -71):
        with pytest.raises(IndexError, match="below 70"):
            dataset[i]
    with pytest.raises(TypeError):
        dataset["1"]


def test_the_stored_dtype(folder):
    assert read(folder, stored=True)[3].latent.dtype == np.float16


def test_threads_read_at_once(folder):
    dataset, order = read(folder), np.random.default_rng(0).integers(0, 70, 300)
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(dataset.__getitem__, order))
    assert [r.key for r in records] == [f"a/{i}.é.jpg" for i in order]


def test_a_pickle_opens_the_shards_again(folder):
    dataset = read(folder, stored=True)
    assert dataset[40].latent.dtype == np.float16
    again = pickle.loads(pickle.dumps(dataset))
    assert_same(again[40], dataset[40])


def test_few_shards_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_MAX_OPEN", 2)
    write_dataset(tmp_path, make_records(10), per_shard=1)
    dataset = read(tmp_path)
    assert [r.key for r in dataset] == [f"a/{i}.é.jpg" for i in range(10)]
    assert len(dataset._open) == 2


def test_a_shard_that_is_gone_or_cut_off_is_named(tmp_path):
    write_dataset(tmp_path, make_records())
    (tmp_path / "shard-00001.tar").unlink()
    path = tmp_path / "shard-00002.tar"
    path.write_bytes(path.read_bytes()[:5000])
    dataset = read(tmp_path)
    with pytest.raises(MediaFileError, match="shard-00001.tar: no such file"):
        dataset[30]
    with pytest.raises(MediaFileError, match="shard-00002.tar: cannot be read"):
        dataset[69]


@pytest.mark.parametrize(
    ("format", "blocked"),
    [("parquet", "pyarrow"), ("array_record", "array_record.python.array_record_module")],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, format, blocked):
    write_dataset(tmp_path, make_records(3), format)
    package, module = FORMATS[format].package, FORMATS[format].module
    monkeypatch.delitem(sys.modules, f"taesd_jax.datasets.{module}")
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}: pip install .*\[datasets\]"):
        read(tmp_path)[0]

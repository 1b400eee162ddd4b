"""What grain, Hugging Face datasets, polars, pyarrow, webdataset and safetensors make of shards."""

import numpy as np
import pytest
from dataset_files import make_records, write_dataset

from taesd_jax.datasets import read


@pytest.fixture
def records():
    return make_records()


def assert_rows(rows, records):
    """Check rows of a parquet file, given as dicts of columns."""
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        latent = np.frombuffer(row["latent"], row["dtype"]).reshape(row["shape"])
        np.testing.assert_array_equal(latent, record.latent.astype("float16"))
        assert row["key"] == record.key
        assert tuple(row["image_size"]) == record.image_size
        for name in ("caption", "label", "score", "good", "data", "tags", "nothing"):
            assert row[name] == record.fields.get(name)


def test_pyarrow_and_polars(tmp_path, records):
    write_dataset(tmp_path, records, "parquet")
    pa = pytest.importorskip("pyarrow.dataset")
    files = sorted(tmp_path.glob("*.parquet"))
    assert_rows(pa.dataset(files).to_table().to_pylist(), records)
    polars = pytest.importorskip("polars")
    assert_rows(polars.read_parquet(tmp_path / "*.parquet").to_dicts(), records)


@pytest.mark.filterwarnings("ignore")  # of its own making
def test_hugging_face_datasets(tmp_path, records):
    # Columns that are empty in the first shard must not fix their types.
    for record in records[:30]:
        record.fields.update(caption=None, tags=[])
    write_dataset(tmp_path / "set", records, "parquet")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "set" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert_rows(loaded.to_list(), records)
    assert loaded[33]["caption"] == records[33].fields.get("caption")


@pytest.mark.filterwarnings(
    "ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_webdataset(tmp_path, records):
    write_dataset(tmp_path, records, "webdataset")
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode())
    for sample, record in zip(samples, records, strict=True):
        np.testing.assert_array_equal(sample["npy"], record.latent.astype("float16"))
        assert sample["json"]["key"] == record.key
        assert sample["json"]["fields"]["caption"] == record.fields.get("caption")


@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_safetensors_in_array_records(tmp_path, records, store):
    write_dataset(tmp_path, records, "array_record", store=store)
    grain = pytest.importorskip("grain")
    from safetensors.numpy import load

    source = grain.sources.ArrayRecordDataSource([str(p) for p in sorted(tmp_path.glob("*.ar*"))])
    assert len(source) == len(records)
    for i, expected in enumerate(read(tmp_path, stored=True)):
        np.testing.assert_array_equal(load(source[i])["latent"], expected.latent, strict=True)


@pytest.mark.parametrize("format", ["parquet", "array_record", "webdataset"])
def test_grain_shuffles_and_batches(tmp_path, records, format):
    records = records[::2]  # of one shape
    write_dataset(tmp_path, records, format, store="float32")
    grain = pytest.importorskip("grain")
    batches = list(
        grain.MapDataset.source(read(tmp_path))
        .shuffle(seed=0)
        .map(lambda record: {"latent": record.latent, "label": record.fields["label"]})
        .batch(5)
        .to_iter_dataset(grain.ReadOptions(num_threads=4))
    )
    order = np.concatenate([batch["label"] for batch in batches])
    assert sorted(order) == list(range(0, 70, 2))
    assert list(order) != sorted(order)
    latents = np.concatenate([batch["latent"] for batch in batches])
    np.testing.assert_array_equal(latents, [records[i // 2].latent for i in order])


@pytest.mark.process
def test_workers_of_grain_read_the_same(tmp_path, records):
    write_dataset(tmp_path, records[::2], "array_record")
    grain = pytest.importorskip("grain")
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # grain asks one of them, and we are no program of absl
    data = grain.MapDataset.source(read(tmp_path)).map(lambda r: r.fields["label"])
    workers = grain.multiprocessing.MultiprocessingOptions(num_workers=2)
    assert sorted(data.to_iter_dataset().mp_prefetch(workers)) == list(range(0, 70, 2))

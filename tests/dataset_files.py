"""Small data sets of latents, made without a model."""

import numpy as np
import pytest

from taesd_jax import VARIANTS
from taesd_jax.datasets import Record, manifest
from taesd_jax.datasets.formats import FORMATS
from taesd_jax.datasets.records import pack
from taesd_jax.io.latent_fields import make_fields

PACKAGES = {"parquet": "pyarrow.parquet", "array_record": "array_record.python"}
METADATA = make_fields(
    VARIANTS["taesd"], image_size=None, encoder_sha256=None, software="a test"
) | {"note": "é\n2"}


def format_of(name):
    """Return a format of shards; skip where what it needs is not installed."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return FORMATS[name]


def make_records(count=70, seed=0):
    """Latents of two sizes, with fields of every type, some of them missing."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        shape = [(2, 3, 4), (5, 1, 4)][i % 2]
        fields = {"caption": f"a cat\né {i}", "label": i, "score": i / 3, "good": i > 3}
        fields |= {"data": bytes([i, 255]), "tags": ["x"] * (i % 3), "nothing": None}
        if i % 2:
            del fields["caption"]
        latent = rng.normal(size=shape).astype(np.float32)
        size, crop = (8 * shape[0] - 1, 8 * shape[1]), (i, 1, 90, 80)
        records.append(Record(f"a/{i}.é.jpg", latent, size, crop, bool(i % 2), fields))
    return records


def write_dataset(
    folder, records, format="webdataset", *, per_shard=30, store="float16", metadata=METADATA
):
    """Write records as a finished data set; return the keys of each shard."""
    chosen, reports, keys = format_of(format), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(records), per_shard):
        path = manifest.shard_path(folder, len(reports), chosen)
        part = records[first : first + per_shard]
        keys.append([*dict.fromkeys(record.key for record in part)])
        chosen.write_shard(path, [pack(r, store) for r in part], metadata=metadata)
        facts = path.name, manifest.digest_file(path), path.stat().st_size, len(part)
        reports.append(manifest.ShardReport(*facts, len(keys[-1]), (), 1.0))
    write_manifest(folder, reports, format, metadata)
    return keys


def write_manifest(folder, reports, format="webdataset", metadata=METADATA):
    """Write the manifest of a data set of these reports."""
    facts = {"fingerprint": "ab", "format": format, "metadata": metadata}
    return manifest.write_manifest(folder, reports=reports, **facts)


def assert_same(record, other):
    """Check that two records are equal, with their dtypes."""
    for array, another in ((record.latent, other.latent), (record.low_high, other.low_high)):
        np.testing.assert_array_equal(array, another, strict=True)
    assert record._replace(latent=0, low_high=0) == other._replace(latent=0, low_high=0)

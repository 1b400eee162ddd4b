"""Every fault of a data set is one line."""

import pytest
from dataset_files import make_records, write_dataset, write_manifest

from taesd_jax.datasets.checks import check
from taesd_jax.datasets.manifest import Failure, read_manifest


@pytest.fixture
def dataset(tmp_path):
    return tmp_path, write_dataset(tmp_path, make_records())


def test_a_whole_data_set_has_no_problem(dataset):
    assert list(check(*dataset)) == []


def test_flipped_records_come_in_pairs(tmp_path):
    records = [r._replace(flipped=f) for r in make_records(9) for f in (False, True)]
    keys = write_dataset(tmp_path, records, per_shard=6)
    assert list(check(tmp_path, keys)) == []
    keys = write_dataset(tmp_path, records[:-1], per_shard=6)
    assert list(check(tmp_path, keys)) == ["shard-00002.tar: a/8.é.jpg: 1 of 2 records"]


def test_bytes_and_files(dataset):
    folder, keys = dataset
    content = bytearray((folder / "shard-00000.tar").read_bytes())
    content[3000] ^= 1
    (folder / "shard-00000.tar").write_bytes(content)
    (folder / "shard-00001.tar").unlink()
    (folder / "shard-00003.tar").write_bytes(b"")
    lines = list(check(folder, keys))
    assert [line.split(":")[0] for line in lines] == [f"shard-0000{i}.tar" for i in (0, 1, 3)]


def test_every_input_is_accounted_for_once(dataset):
    folder, (a, b, c) = dataset
    assert list(check(folder, [a, b])) == ["the plan has 2 shards, the manifest 3"]
    moved = [[*a[:-1], b[0]], [*b[1:], "new"], c]
    assert list(check(folder, moved)) == [
        "shard-00000.tar: a/29.é.jpg: not in the plan of this shard",
        "shard-00000.tar: a/30.é.jpg: neither a record nor a failure",
        "shard-00001.tar: a/30.é.jpg: not in the plan of this shard",
        "shard-00001.tar: new: neither a record nor a failure",
    ]
    assert list(check(folder, [a, b, [*c[1:], a[0]]])) == [
        "a/0.é.jpg: 2 times in the plan",
        "shard-00002.tar: a/0.é.jpg: neither a record nor a failure",
        "shard-00002.tar: a/60.é.jpg: not in the plan of this shard",
    ]


def test_failures_take_the_place_of_records(dataset):
    folder, (a, b, c) = dataset
    shards = list(read_manifest(folder).shards)
    shards[0] = shards[0]._replace(failures=(Failure("x", "broken"),), inputs=31)
    write_manifest(folder, shards)
    assert list(check(folder, [[*a, "x"], b, c])) == []
    assert list(check(folder, [a, b, c])) == ["shard-00000.tar: x: not in the plan of this shard"]
    shards[0] = shards[0]._replace(failures=(Failure(a[0], "broken"),))
    write_manifest(folder, shards)
    (line,) = check(folder, [a, b, c])
    assert line.endswith("a record as well as a failure")


def test_counts_and_metadata(tmp_path):
    keys = write_dataset(tmp_path, [make_records(1)[0]] * 2)
    shards = read_manifest(tmp_path).shards
    write_manifest(tmp_path, [shards[0]._replace(records=3)], metadata={"note": "another"})
    assert list(check(tmp_path, keys)) == [
        "shard-00000.tar: its metadata differ from the manifest's",
        "shard-00000.tar: 2 records, where the manifest says 3",
        "shard-00000.tar: a/0.é.jpg: 2 times",
    ]

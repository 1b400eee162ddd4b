"""Reports on shards and the manifest."""

import pytest
from dataset_files import write_manifest

from taesd_jax.datasets import manifest
from taesd_jax.datasets.formats import FORMATS
from taesd_jax.errors import MediaFileError

FAILURE = manifest.Failure("b.jpg", "cannot be read: it is\na text")


def make_reports(folder, seconds=1.5):
    reports = []
    for i, failures in enumerate([(), (FAILURE,), (FAILURE._replace(key="é"),) * 2]):
        path = manifest.shard_path(folder, i, FORMATS["webdataset"])
        path.write_bytes(b"x" * i)
        digest = manifest.digest_file(path)
        reports.append(manifest.ShardReport(path.name, digest, i, 7, 9, failures, seconds))
    return reports


def test_a_shard_is_finished_once_its_report_is_written(tmp_path):
    report = make_reports(tmp_path)[1]
    path = tmp_path / report.shard
    assert path.name == "shard-00001.tar"
    assert manifest.read_report(path) is None
    manifest.write_report(path, report)
    assert manifest.read_report(path) == report
    path.write_bytes(b"longer")
    assert manifest.read_report(path) is None
    path.unlink()
    assert manifest.read_report(path) is None
    path.with_suffix(".json").write_text('{"shard": 1')
    assert manifest.read_report(path) is None


def test_the_manifest_keeps_what_it_is_given(tmp_path):
    written = write_manifest(tmp_path, make_reports(tmp_path))
    assert manifest.read_manifest(tmp_path) == written
    assert (written.records, len(written.failures)) == (21, 3)
    assert written.failures[0] == FAILURE


def test_time_changes_no_byte(tmp_path):
    contents = []
    for seconds in (1.0, 2.0):
        write_manifest(tmp_path, make_reports(tmp_path, seconds))
        names = (manifest.MANIFEST_FILE, manifest.FAILURES_FILE)
        contents.append([(tmp_path / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_an_unfinished_or_broken_data_set_is_refused(tmp_path):
    with pytest.raises(MediaFileError, match="encode-dataset .* again"):
        manifest.read_manifest(tmp_path)
    with pytest.raises(MediaFileError, match="no such file"):
        manifest.read_manifest(tmp_path / "none")
    write_manifest(tmp_path, make_reports(tmp_path))
    path = tmp_path / manifest.MANIFEST_FILE
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(MediaFileError, match="expected version 1, got 2"):
        manifest.read_manifest(tmp_path)
    path.write_text("{")
    with pytest.raises(MediaFileError, match=r"manifest.json: cannot be read"):
        manifest.read_manifest(tmp_path)

"""What a source lists: every input once, what travels along, and what cannot be read."""

import io
import os
import sys
import tarfile

import numpy as np
import pytest
from encoded_datasets import encoded, noise

from taesd_jax.datasets.sources import list_items, read_item
from taesd_jax.errors import MediaFileError

PICTURE = encoded(noise((8, 8)))


def keys(source, **options):
    return [item.key for item in list_items(str(source), **options)[1]]


def read_all(source, column=None):
    """Return what each input gives: bytes and fields, or the reason why it cannot be read."""
    root, items = list_items(str(source), image_column=column)
    found = {}
    for item in items:
        try:
            found[item.key] = read_item(root, item, image_column=column)
        except (MediaFileError, OSError) as error:
            found[item.key] = str(error)
    return found


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_folder_with_captions(tmp_path):
    names = ("b/a.png", "b/a.jpg", "b/A.png", "c.webp", "cache-1.gif")
    for name in (*names, ".hidden.png", "cache-1.arrow"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "b/a.txt").write_text("\ufeffa cat\n")
    (tmp_path / "c.json").write_text('{"n": 1}')
    (tmp_path / "notes.md").write_text("no input")
    assert read_all(tmp_path) == {
        "b/A.png": (b"b/A.png", {}),
        "b/a.jpg": (b"b/a.jpg", {"txt": "a cat"}),
        "b/a.png": (b"b/a.png", {"txt": "a cat"}),
        "c.webp": (b"c.webp", {"json": '{"n": 1}'}),
        "cache-1.gif": (b"cache-1.gif", {}),
    }


def test_patterns_and_files(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "a/1.txt").write_text("one")
    assert keys(tmp_path / "*" / "*.png") == ["a/1.png", "a/2.png", "b/1.png"]
    # Keys do not depend on what happens to match.
    assert keys(tmp_path / "*" / "2.png") == ["a/2.png"]
    assert read_all(tmp_path / "a" / "1.*") == {"1.png": (PICTURE, {"txt": "one"})}
    assert read_all(tmp_path / "a" / "1.png") == {"1.png": (PICTURE, {"txt": "one"})}
    (tmp_path / "[x].png").write_bytes(PICTURE)
    assert keys(tmp_path / "[x].png") == ["[x].png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_odd_names_and_odd_files(tmp_path):
    for name in (b"\xff\n.png", b"\\xff\n.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(PICTURE)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").write_bytes(PICTURE)
    found = read_all(tmp_path)
    assert found.pop("\\xff\n.png") == found.pop("\\xff\n.png#2") == (PICTURE, {})
    assert found.pop("elsewhere/x.png") == (PICTURE, {})  # once, by whichever name comes first
    assert "pipe or a device" in found.pop("pipe.png")
    assert "No such file" in found.pop("gone.png")
    assert not found


def test_a_source_that_changed(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(PICTURE)
        (tmp_path / f"{name}.txt").write_text(name)
    root, items = list_items(str(tmp_path))
    (tmp_path / "a.png").write_bytes(PICTURE + b"x")
    os.utime(tmp_path / "b.png", ns=(0, 0))
    (tmp_path / "c.png").unlink()
    (tmp_path / "d.txt").write_text("another")
    for item, match in zip(items, ["a.png: changed", "b.png: changed", "c.png", "d.txt: changed"],
                           strict=True):  # fmt: skip
        with pytest.raises((MediaFileError, OSError), match=match):
            read_item(root, item, image_column=None)


def test_tars(tmp_path):
    members = [("q/0.jpg", PICTURE), ("q/0.cls", b"3"), ("q/0.txt", b"cap"), ("q/0.npy", b"\x93")]
    members += [("q/1.left.png", b"l"), ("q/1.right.png", b"r"), ("q/0.jpg", b"again")]
    path = write_tar(tmp_path / "s.tar", members)
    fields = {"cls": 3, "txt": "cap", "npy": b"\x93"}
    whole = {
        "s.tar/q/0.jpg": (PICTURE, fields),
        "s.tar/q/0.jpg#2": (b"again", fields),
        "s.tar/q/1.left.png": (b"l", {}),
        "s.tar/q/1.right.png": (b"r", {}),
    }
    assert read_all(tmp_path) == read_all(path) == whole
    (tmp_path / "t.tar").write_bytes(path.read_bytes()[:3500])
    (tmp_path / "u.tar").write_bytes(b"junk" * 1000)
    found = read_all(tmp_path)
    assert found["t.tar/q/0.jpg"] == (PICTURE, {k: fields[k] for k in ("cls", "txt")})
    for name in ("t", "u"):
        assert "ends too early" in found[f"{name}.tar/(the rest)"]
    assert whole.items() <= found.items()


def test_tables(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "aside").write_bytes(b"aside")
    pictures = [{"bytes": PICTURE, "path": None}, {"bytes": None, "path": "aside"}, None]
    pictures += [{"bytes": b"x", "path": "y"}]
    columns = {"img": pictures, "label": [0, 1, 2, None], "tags": [["a"], [], None, ["b"]]}
    columns |= {"nested": [{"a": 1}] * 4, "key": list("wxyz")}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=3)
    found = read_all(tmp_path)
    others = {"label": 0, "tags": ["a"], "nested": '{"a": 1}', "source_key": "w"}
    assert found["x.parquet/000000000"] == (PICTURE, others)
    assert found["x.parquet/000000001"][0] == b"aside"
    assert "null" in found["x.parquet/000000002"]
    assert found["x.parquet/000000003"][0] == b"x"
    two = pa.table({"a": [b"1"], "b": [b"2"]})
    pq.write_table(two, tmp_path / "x.parquet")
    assert read_all(tmp_path, "b") == {"x.parquet/000000000": (b"2", {"a": b"1"})}
    with pytest.raises(MediaFileError, match=r"\['a', 'b'\], got None"):
        keys(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert "cannot be listed" in read_all(tmp_path)["x.parquet"]


def test_hugging_face_data_sets_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": PICTURE, "path": None}] * 3, "text": ["a", "b", "c"]}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path, num_shards=2)
    assert [text for _, text in read_all(tmp_path).values()] == [{"text": t} for t in "abc"]
    assert {data for data, _ in read_all(tmp_path).values()} == {PICTURE}


def test_array_records(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    for content in (PICTURE, b"second"):
        writer.write(content)
    writer.close()
    assert [*read_all(tmp_path).values()] == [(PICTURE, {}), (b"second", {})]
    (tmp_path / "x.array_record").rename(tmp_path / "x.array_record-00000-of-00001")
    assert [*read_all(tmp_path).values()] == [(PICTURE, {}), (b"second", {})]


def test_remote_files(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    tar = write_tar(tmp_path / "s.tar", [("0.png", b"zero"), ("0.txt", b"cap")]).read_bytes()
    files = {"/box/p/a.png": PICTURE, "/box/p/a.txt": b"hi", "/box/t/s.tar": tar}
    for path, content in files.items():
        system.pipe(path, content)
    for source in ("memory://box/p", "memory://box/p/*.png", "memory://box/p/a.png"):
        assert read_all(source) == {"a.png": (PICTURE, {"txt": "hi"})}
    assert read_all("memory://box/t") == {"s.tar/0.png": (b"zero", {"txt": "cap"})}
    root, (item,) = list_items("memory://box/p")
    system.pipe("/box/p/a.png", b"shorter")
    with pytest.raises(MediaFileError, match="changed"):
        read_item(root, item, image_column=None)


def test_sources_without_inputs(tmp_path):
    with pytest.raises(MediaFileError, match="no such file or folder"):
        keys(tmp_path / "nothing")
    with pytest.raises(MediaFileError, match="no such file or folder"):
        keys(tmp_path)
    (tmp_path / "x.md").write_text("x")
    with pytest.raises(MediaFileError, match="no pictures in"):
        keys(tmp_path)
    (tmp_path / "x.png").write_bytes(PICTURE)
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(MediaFileError, match=r"x\.png and x\.tar"):
        keys(tmp_path)


def test_the_order_is_that_of_the_keys(tmp_path):
    names = [f"{i}.png" for i in np.random.default_rng(0).permutation(30)]
    for name in names:
        (tmp_path / name).write_bytes(PICTURE)
    assert keys(tmp_path) == sorted(names)


def test_what_tars_hold_beside_pictures(tmp_path):
    tar = write_tar(
        tmp_path / "a.tar",
        [("1.png", PICTURE), ("1", b"no picture"), ("1.cls", b"n0144"), ("2.png", PICTURE)],
    )
    with tarfile.open(tar, "a") as file:
        link = tarfile.TarInfo("3.png")
        link.type, link.linkname = tarfile.LNKTYPE, "2.png"
        file.addfile(link)
    found = read_all(tar)
    assert found["a.tar/1.png"] == (PICTURE, {"cls": "n0144"})
    assert found["a.tar/2.png"] == (PICTURE, {})
    assert "link" in found["a.tar/3.png"]


def test_a_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "1.png").write_bytes(PICTURE)
    (tmp_path / "1.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert ".txt" in read_all(tmp_path)["1.png"]

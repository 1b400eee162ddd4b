"""Plans: frozen, continued only with the same settings and inputs, and never over other files."""

import json

import pytest
from encoded_datasets import OPTIONS, make_vae, plan_of, write_source

from taesd_jax.datasets.pictures import Geometry, buckets
from taesd_jax.datasets.plan import load_plan
from taesd_jax.errors import MediaFileError


@pytest.fixture(scope="module")
def vae():
    return make_vae()


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def test_every_input_is_in_one_shard(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    keys = [[item.key for item in plan.items(i)] for i in range(plan.shards)]
    assert [len(shard) for shard in keys] == [4, 4, 2] == [plan.count(i) for i in range(3)]
    assert [key for shard in keys for key in shard] == [f"{i:04}.png" for i in range(10)]
    assert load_plan(tmp_path / "out") == plan == plan_of(source, tmp_path / "out", vae)


def test_names_of_any_kind_are_read_again(source, vae, tmp_path):
    (source / "line\nend\r\u2028.png").write_bytes(b"x")
    plan = plan_of(source, tmp_path / "out", vae)
    assert plan.items(2)[-1].path == "line\nend\r\u2028.png"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"store": "uint8"}, "store was 'float32', is 'uint8'"),
        ({"flip": True}, "flip was False, is True"),
        ({"format": "parquet"}, "format"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"shard_images": 5}, "shard_images was 4, is 5"),
        ({"geometry": buckets(64, multiple=8)}, "sizes"),
        ({"geometry": Geometry((), 8)}, "sizes"),
    ],
)
def test_other_settings_are_refused(change, match, source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    with pytest.raises(MediaFileError, match=rf"other settings: .*{match}.*name a new folder"):
        plan_of(source, tmp_path / "out", vae, **change)
    assert load_plan(tmp_path / "out") == plan


def test_another_model_is_refused(source, vae, tmp_path):
    plan_of(source, tmp_path / "out", vae)
    with pytest.raises(MediaFileError, match="encoder_sha256 was"):
        plan_of(source, tmp_path / "out", make_vae(1))


def test_other_inputs_are_refused(source, vae, tmp_path):
    plan_of(source, tmp_path / "out", vae)
    write_source(source, 12)
    (source / "0003.png").unlink()
    (source / "0004.txt").write_text("a caption")
    with pytest.raises(MediaFileError) as raised:
        plan_of(source, tmp_path / "out", vae)
    message = str(raised.value)
    for part in ("2 new, such as 0010.png", "1 gone, such as 0003.png", "changed", "--as-planned"):
        assert part in message


def test_inputs_may_move_as_a_whole(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    moved = source.rename(tmp_path / "moved")
    again = plan_of(moved, tmp_path / "out", vae)
    assert again == plan._replace(root=str(moved)) == load_plan(tmp_path / "out")


def test_folders_of_something_else_are_left_alone(source, vae, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(MediaFileError, match=r"something else, such as thesis\.txt"):
        plan_of(source, tmp_path / "out", vae)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_dry_plan_writes_nothing(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae, dry=True)
    assert not (tmp_path / "out").exists()
    assert plan == plan_of(source, tmp_path / "out", vae)


def test_a_plan_that_was_cut_off_is_made_again(source, vae, tmp_path):
    plan = plan_of(source, tmp_path / "out", vae)
    (tmp_path / "out" / "plan.json").unlink()
    (tmp_path / "out" / "inputs.jsonl").write_bytes(b'["cut')
    assert plan_of(source, tmp_path / "out", vae) == plan
    (tmp_path / "out" / "plan.json").write_text('{"fingerprint":')
    with pytest.raises(MediaFileError, match=r"plan\.json: cannot be read"):
        load_plan(tmp_path / "out")


def test_the_metadata_say_how_the_latents_were_made(source, vae, tmp_path):
    metadata = plan_of(source, tmp_path / "out", vae).metadata
    assert metadata["latent_space"] == "model"
    assert json.loads(metadata["config"]) == json.loads(json.dumps(vae.config.to_dict()))
    assert json.loads(metadata["sizes"]) == [[32, 32]]
    assert all(isinstance(value, str) for value in metadata.values())
    assert OPTIONS.keys() < metadata.keys()

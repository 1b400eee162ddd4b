"""The benchmark runs, compares equal results and reports what it says."""

import json

import jax
import jax.numpy as jnp
import pytest
from models import SMALL

from taesd_jax import cli, decode, init
from taesd_jax.cli import measurement
from taesd_jax.cli.counts import count_full
from taesd_jax.cli.runners import OURS, UINT8, Case
from taesd_jax.cli.video_runners import AT_ONCE, VideoCase
from taesd_jax.video import VIDEO_VARIANTS


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_ways_are_run_in_turn_and_agree(component):
    names = [OURS, "full", "strips 1, 4"]
    rows = measurement.measure(
        names, Case("small", SMALL, component, 64, 2, "float32", 2), rounds=3
    )
    assert [row.name for row in rows] == names
    assert all(len(row.seconds) == 3 and row.max_error < 2e-5 for row in rows)
    assert all(row.median_s > 0 and row.first_s > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.oracle
def test_peers_give_the_same_picture():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from taesd_jax.convert.peers import make_peer

    case = Case("small", SMALL, "decoder", 64, 1, "float32", 2)
    rows = measurement.measure(
        [OURS, "eager", "channels_last"], case, rounds=1, make_peer=make_peer
    )
    assert all(not row.note and row.max_error < 1e-4 for row in rows)


def test_what_cannot_run_says_why():
    case = Case("small", SMALL, "decoder", 16, 1, "float32", 2)
    _, row = measurement.measure([OURS, "eager"], case, rounds=1)
    assert (row.note, row.seconds) == ("torch is not installed", ())


def test_what_xla_counts():
    counts = count_full(Case("small", SMALL, "decoder", 64, 1, "float32", 2))
    z = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
    params = jax.eval_shape(lambda: init(jax.random.key(0), config=SMALL))
    compiled = jax.jit(lambda p, z: decode(p, z, config=SMALL)).lower(params, z).compile()
    # On a CPU it counts convolutions then, too; of narrow ones what it rearranges is a part.
    assert counts["gflop"] == pytest.approx(compiled.cost_analysis()["flops"] / 1e9, rel=0.05)
    assert counts["temporary_mb"] > 0.1


def video_case(component, frames=8, **changes):
    config = VIDEO_VARIANTS["taew2_1"].replace(num_blocks=1, **changes)
    return VideoCase("taew2_1", config, component, 32, frames, 1, "float32", 2)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("component", ["decoder", "encoder"])
def test_pytorch_gives_the_same_video(component):
    pytest.importorskip("torch")
    from taesd_jax.convert.video_peers import make_video_peer

    case = video_case(component)._replace(config=VIDEO_VARIANTS["taew2_1"])
    names = case.names(["eager", "steps"], strategies=False)
    _, eager, steps = measurement.measure(names, case, rounds=1, make_peer=make_video_peer)
    assert case.pictures == (5 if component == "decoder" else 8)
    assert eager.max_error < 1e-4
    assert not eager.note
    if component == "encoder":
        assert "steps" in steps.note
    else:
        assert steps.max_error < 1e-4


def test_what_xla_counts_of_videos_grows_with_the_length_but_for_the_memory():
    narrow = {"decoder_channels": (8,) * 4}
    short, long = (count_full(video_case("decoder", frames, **narrow)) for frames in (8, 16))
    assert long["gflop"] == 2 * short["gflop"] > 0
    assert long["temporary_mb"] == short["temporary_mb"]


def test_videos_run_a_latent_at_a_time_or_at_once():
    case = video_case("decoder", decoder_channels=(8,) * 4)
    assert case.names(["eager"], strategies=True) == [OURS, AT_ONCE]
    rows = measurement.measure([OURS, AT_ONCE, "eager"], case, rounds=1)
    assert rows[1].max_error < 2e-5
    assert rows[2].note == "torch is not installed"


@pytest.mark.slow
def test_the_command_with_videos(tmp_path, capsys):
    target = tmp_path / "bench.json"
    command = ["bench", "--video", "--sizes", "16", "--frames", "4", "8", "--rounds", "1"]
    assert cli.main([*command, "--components", "encoder", "--peers", "none"]) == 0
    assert "taew2_1 encoder, 8 frames of 16x16, batch 1, float32" in capsys.readouterr().out
    command = [*command, "--components", "decoder", "--peers", "none", "--json", str(target)]
    assert cli.main(command) == 0
    assert [case["frames"] for case in json.loads(target.read_text())["cases"]] == [4, 8]
    assert cli.main(["bench", "--video", "--sizes", "12"]) == 2
    assert "multiples of 8 for taew2_1, got 12" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    target = tmp_path / "bench.json"
    command = [
        "bench",
        "--sizes",
        "32",
        "--rounds",
        "1",
        "--peers",
        "none",
        "--components",
        "decoder",
    ]
    assert cli.main([*command, "--overhead", "--json", str(target)]) == 0
    assert "taesd decoder, 32x32, batch 1, float32" in capsys.readouterr().out
    report = json.loads(target.read_text())
    assert [run["name"] for run in report["cases"][0]["runs"]] == [OURS, UINT8]
    assert report["overhead"]["vae_us"] > 0


@pytest.mark.slow
def test_data_sets_beside_the_encoder_alone(tmp_path, capsys):
    target = tmp_path / "bench.json"
    command = ["bench", "--dataset", "small", "--sizes", "64", "--count", "5", "--rounds", "2"]
    assert cli.main([*command, "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    times = report["seconds"]
    assert all(len(times[name]) == 2 for name in ("encoder", "encode-dataset"))
    float32 = 8 * 8 * 4 * 4
    assert report["bytes"]["webdataset"]["float32"] > float32
    assert report["psnr"]["float16"] > report["psnr"]["bfloat16"] > report["psnr"]["uint8"]
    assert "5 JPEG images of 64x64" in capsys.readouterr().out

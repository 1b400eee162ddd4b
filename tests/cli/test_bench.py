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


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_ways_are_run_in_turn_and_agree(component):
    names = [OURS, "full", "strips 1, 4"]
    rows = measurement.measure(names, Case(SMALL, component, 64, 2, "float32", 2), rounds=3)
    assert [row.name for row in rows] == names
    assert all(len(row.seconds) == 3 and row.max_error < 2e-5 for row in rows)
    assert all(row.median_s > 0 and row.first_s > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.oracle
def test_peers_give_the_same_picture():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from taesd_jax.convert.peers import make_peer

    case = Case(SMALL, "decoder", 64, 1, "float32", 2)
    rows = measurement.measure(
        [OURS, "eager", "channels_last"], case, rounds=1, make_peer=make_peer
    )
    assert all(not row.note and row.max_error < 1e-4 for row in rows)


def test_what_cannot_run_says_why():
    case = Case(SMALL, "decoder", 16, 1, "float32", 2)
    _, row = measurement.measure([OURS, "eager"], case, rounds=1)
    assert (row.note, row.seconds) == ("torch is not installed", ())


def test_what_xla_counts():
    counts = count_full(Case(SMALL, "decoder", 64, 1, "float32", 2))
    z = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
    params = jax.eval_shape(lambda: init(jax.random.key(0), config=SMALL))
    compiled = jax.jit(lambda p, z: decode(p, z, config=SMALL)).lower(params, z).compile()
    # On a CPU it counts convolutions then, too; of narrow ones what it rearranges is a part.
    assert counts["gflop"] == pytest.approx(compiled.cost_analysis()["flops"] / 1e9, rel=0.05)
    assert counts["temporary_mb"] > 0.1


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

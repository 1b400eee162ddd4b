"""The hub's real client against a server on this machine that misbehaves."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub
from models import SMALL, random_model

import taesd_jax

pytestmark = pytest.mark.process

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


class Client:
    def __init__(self, hub, **settings):
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"} | settings
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "tools" / "hub_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def load(self, source, **options):
        line = json.dumps({"source": source} | options)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture(scope="module")
def client(hub):
    client = Client(hub)
    yield client
    client.close()


@pytest.fixture(scope="module")
def offline(hub):
    client = Client(hub, HF_HUB_OFFLINE="1")
    yield client
    client.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the files of two diffusers folders, with what tells them apart."""
    contents = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("model")
        params, config = random_model(SMALL, seed)
        taesd_jax.save(folder, params, config)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        bias = params["decoder"]["layers_1"]["bias"]
        contents.append((files, {"sum": float(np.sum(bias, dtype=np.float64))}))
    return contents


@pytest.fixture
def place(tmp_path):
    return {"cache_dir": str(tmp_path)}


def test_first_download_cache_and_offline(hub, client, offline, models, place):
    files, whole = models[0]
    hub.publish("some/first", files)
    assert "error" in offline.load("some/first", **place)
    assert client.load("some/first", **place) == whole
    hub.requests.clear()
    assert client.load("some/first", **place) == whole
    assert not [path for method, path in hub.requests if method == "GET"]
    hub.requests.clear()
    assert offline.load("some/first", **place) == whole
    assert client.load("some/first", **place, local_files_only=True) == whole
    assert not hub.requests


def test_what_is_not_there(hub, client, models, place):
    answer = client.load("some/nothing", **place)
    assert answer["error"] == "CheckpointNotFoundError"
    assert "some/nothing" in answer["message"]
    hub.publish("some/other", {"README.md": b"x"})
    answer = client.load("some/other", **place)
    assert answer["error"] == "CheckpointNotFoundError"
    assert FILE in answer["message"]
    hub.publish("some/there", models[0][0])
    answer = client.load("some/there", **place, revision="v9")
    assert answer["error"] == "CheckpointNotFoundError"
    assert "some/there" in answer["message"]
    assert "'v9'" in answer["message"]


def test_what_is_refused(hub, client, models, place):
    hub.publish("some/gated", models[0][0])
    hub.faults["some/gated"] = ["always 403"]
    answer = client.load("some/gated", **place)
    assert answer["error"] == "CheckpointNotFoundError"
    assert "some/gated is gated" in answer["message"]


def test_an_error_of_the_server_passes(hub, client, models, place):
    files, whole = models[0]
    hub.publish("some/ill", files)
    hub.faults["some/ill"] = ["500"]
    hub.requests.clear()
    answer = client.load("some/ill", **place)
    asked = [path for method, path in hub.requests if method == "GET"]
    # The hub's older clients give up at once, newer ones ask for the same file again.
    if len(asked) > len(set(asked)):
        assert answer == whole
    else:
        assert answer["error"] == "CheckpointError"
        assert "some/ill" in answer["message"]
        assert "500" in answer["message"]
    assert hub.faults["some/ill"] == []
    assert client.load("some/ill", **place) == whole


def test_a_slow_server_is_waited_for(hub, client, models, place):
    files, whole = models[0]
    hub.publish("some/slow", files)
    hub.faults["some/slow"] = ["slow"]
    assert client.load("some/slow", **place) == whole


def test_a_cut_download_never_loads(hub, client, offline, models, place):
    files, whole = models[0]
    hub.publish("some/cut", files)
    hub.faults["some/cut"] = ["always cut"]
    assert client.load("some/cut", **place)["error"] in (
        "CheckpointError",
        "CheckpointNotFoundError",
    )
    assert "error" in offline.load("some/cut", **place)
    hub.faults["some/cut"] = []
    assert client.load("some/cut", **place) == whole


def test_a_wrong_digest_never_loads(hub, client, offline, models, place):
    files, whole = models[0]
    hub.publish("some/wrong", files)
    hub.statements[FILE] = "0" * 64
    try:
        for each in (client, offline):
            message = each.load("some/wrong", **place)["message"]
            assert "digest differs" in message
            assert FILE in message
    finally:
        del hub.statements[FILE]
    damaged = Path(message.split("delete ")[1].split(" and download")[0])
    damaged.unlink()
    assert client.load("some/wrong", **place) == whole


def test_a_file_damaged_in_the_cache_never_loads(hub, client, offline, models, place, tmp_path):
    files, whole = models[0]
    hub.publish("some/rotten", files)
    assert client.load("some/rotten", **place) == whole
    (blob,) = [p for p in tmp_path.rglob("blobs/*") if p.stat().st_size > 5000]
    raw = bytearray(blob.read_bytes())
    raw[-3] ^= 1
    blob.write_bytes(raw)
    message = offline.load("some/rotten", **place)["message"]
    assert "digest differs" in message
    assert str(blob) in message


def test_a_changed_revision_is_followed_and_an_old_one_stays(hub, client, models, place):
    (old, was), (new, is_now) = models
    first = hub.publish("some/moving", old)
    assert client.load("some/moving", **place) == was
    hub.publish("some/moving", new)
    assert client.load("some/moving", **place) == is_now
    assert client.load("some/moving", **place, revision=first) == was


def test_a_repository_without_its_config_does_not_load_offline(hub, client, offline, models, place):
    files, whole = models[0]
    hub.publish("some/interrupted", files)
    assert client.load("some/interrupted", **place) == whole
    # As a client leaves it that is killed between the two files.
    for config in Path(place["cache_dir"]).rglob("config.json"):
        config.unlink()
    message = offline.load("some/interrupted", **place)["message"]
    assert "some/interrupted" in message
    assert "config.json" in message
    assert client.load("some/interrupted", **place) == whole


def test_all_files_are_of_one_commit(hub, client, models, place):
    (old, was), (new, _) = models
    first = hub.publish("some/branch", old)
    moved = iter([lambda: hub.publish("some/branch", new)])
    hub.after[FILE] = lambda: next(moved, lambda: None)()
    try:
        assert client.load("some/branch", **place) == was
    finally:
        del hub.after[FILE]
    asked = {path for _, path in hub.requests if "some/branch" in path and "config" in path}
    assert asked == {f"/some/branch/resolve/{first}/config.json"}


def test_a_hub_that_cannot_be_reached_is_one_line_in_seconds(tmp_path):
    env = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    code = "import sys; from taesd_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "info", "taesd"],
        env=env | {"HF_HUB_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    # The client's own retries take 23 s; the rest is what importing takes on a busy machine.
    assert time.monotonic() - start < 23
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"taesd-jax: error: madebyollin/taesd .*127\.0\.0\.1:9.*refused\n", done.stderr
    )


def test_what_is_cached_loads_while_the_hub_cannot_be_reached(hub, client, models, place):
    files, whole = models[0]
    hub.publish("some/kept", files)
    assert client.load("some/kept", **place) == whole
    cut_off = Client(hub, HF_ENDPOINT="http://127.0.0.1:9")
    try:
        assert cut_off.load("some/kept", **place) == whole
        answer = cut_off.load("some/absent", **place)
    finally:
        cut_off.close()
    assert answer["error"] == "CheckpointNotFoundError"
    assert "cannot be reached" in answer["message"]

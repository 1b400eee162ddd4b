"""The Ray engine on a cluster of this machine: two actors, kills, poison, a full disk."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from encoded_datasets import contents, encoded, make_vae, noise, plan_of, write_source

from taesd_jax.datasets.encoding import Options, encode_shard
from taesd_jax.datasets.on_ray import run_on_ray
from taesd_jax.datasets.shards import finish
from taesd_jax.errors import MediaFileError

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, and those of its threads and sockets
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes by /proc"),
]

# Sides of pictures that end or hold up the process that decodes them.
POISON, SLOW = 13, 17
SECONDS = 120


def make_hook(full_disk):
    """Return what runs in every worker.

    It stands for pictures that crash a decoder or are slow and, while the file `full_disk` exists,
    for a disk that takes no file beyond 4 kB.

    Ray sends a function within a function by its code: workers cannot import this file.
    """
    poison, slow = POISON, SLOW

    def prepare():
        import os
        import resource
        import signal
        import time

        from taesd_jax.io import colors, images

        def to_srgb(file, path):
            if file.size == (poison, poison):
                os.kill(os.getpid(), signal.SIGKILL)
            if file.size == (slow, slow):
                time.sleep(1)
            if os.path.exists(full_disk):
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            return colors.to_srgb(file, path)

        images.to_srgb = to_srgb

    return prepare


@pytest.fixture(scope="session")
def full_disk(tmp_path_factory):
    """Return a file whose existence means that the workers' disk is full."""
    return tmp_path_factory.mktemp("ray") / "full"


@pytest.fixture(scope="session")
def cluster(full_disk):
    """Start Ray with two CPUs, and stop it at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"worker_process_setup_hook": make_hook(str(full_disk))},
        )
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def vae():
    return make_vae()


class Reports(list):
    """A reporter that keeps what it is told."""

    def observe(self, index, progress):
        pass

    def finish(self, report):
        self.append(report)


def expect(source, folder, vae, **options):
    """Encode without Ray; return the bytes."""
    plan = plan_of(source, folder, vae, **options)
    for index in range(plan.shards):
        encode_shard(plan, index, vae=vae)
    finish(plan)
    return contents(folder)


def run(plan, vae, **options):
    reports = Reports()
    run_on_ray(plan, range(plan.shards), vae, Options(1, **options), reports)
    return reports


def test_two_actors_give_the_same_bytes(cluster, vae, tmp_path):
    source = write_source(tmp_path / "source", 22)
    plan = plan_of(source, tmp_path / "out", vae, format="parquet")
    reports = run(plan, vae)
    assert sorted(report.shard for report in reports) == [f"shard-{i:05}.parquet" for i in range(6)]
    finish(plan)
    assert contents(plan.folder) == expect(source, tmp_path / "alone", vae, format="parquet")
    assert sorted(run(plan, vae)) == sorted(reports)  # nothing is made again


def test_a_worker_that_is_killed_in_mid_shard(cluster, vae, tmp_path):
    source = write_source(tmp_path / "source", 12)
    for i in (0, 1, 6):  # long enough to be met in its midst
        (source / f"{i:04}.png").write_bytes(encoded(noise((SLOW, SLOW), i)))
    plan = plan_of(source, tmp_path / "out", vae)
    killed = []

    def kill():
        while not killed:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it ended
                    if path.read_bytes().startswith(b"ray::_Worker.encode"):
                        time.sleep(0.5)
                        os.kill(int(path.parent.name), signal.SIGKILL)
                        killed.append(path)
                        break
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    run(plan, vae)
    thread.join()
    assert killed
    manifest = finish(plan)
    assert manifest.failures == ()
    assert contents(plan.folder) == expect(source, tmp_path / "alone", vae)


def test_poison_is_found_and_the_rest_is_done(cluster, vae, tmp_path):
    source = write_source(tmp_path / "source", 8)
    for i in (1, 3):
        (source / f"{i:04}.png").write_bytes(encoded(noise((POISON, POISON), i)))
    (source / "0006.png").write_bytes(b"broken")
    plan = plan_of(source, tmp_path / "out", vae)
    with pytest.raises(MediaFileError, match=r"--max-failures: 0006\.png"):
        run_on_ray(plan, [1], vae, Options(1, max_failures=0), Reports())
    reports = run(plan, vae)
    assert sorted(report.records for report in reports) == [2, 3]
    failures = {failure.key: failure.reason for failure in finish(plan).failures}
    assert failures.keys() == {"0001.png", "0003.png", "0006.png"}
    assert "ended the process" in failures["0001.png"]
    assert "ended the process" in failures["0003.png"]


def test_a_full_disk_ends_the_job_with_its_error(cluster, full_disk, vae, tmp_path):
    source = write_source(tmp_path / "source", 8)
    plan = plan_of(source, tmp_path / "out", vae)
    full_disk.touch()
    with pytest.raises(OSError, match=r"File too large: .*shard-0000\d\.tar"):
        run(plan, vae)
    assert not [p for p in plan.folder.iterdir() if "shard" in p.name]
    full_disk.unlink()
    run(plan, vae)
    finish(plan)
    assert contents(plan.folder) == expect(source, tmp_path / "alone", vae)


DRIVER = """
import sys
sys.path[:0] = {path!r}
from test_ray import Reports, run
from taesd_jax.datasets.plan import load_plan
from pathlib import Path
from encoded_datasets import make_vae
import ray
ray.init(address={address!r}, log_to_driver=False)
print("started", flush=True)
run(load_plan(Path({folder!r})), make_vae())
"""


def test_a_driver_that_is_killed(cluster, vae, tmp_path):
    source = write_source(tmp_path / "source", 40)
    plan = plan_of(source, tmp_path / "out", vae)
    path = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    code = DRIVER.format(path=path, address=cluster, folder=str(plan.folder))
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    end = time.monotonic() + SECONDS
    while len([*plan.folder.glob("shard-*.tar")]) < 2:
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    done = {p: p.stat().st_mtime_ns for p in plan.folder.glob("shard-*.tar")}
    assert len(done) < plan.shards
    run(plan, vae)
    finish(plan)
    assert done == {p: p.stat().st_mtime_ns for p in done}
    assert contents(plan.folder) == expect(source, tmp_path / "alone", vae)

"""Strict settings for every test, and the published weights where they are at hand."""

import atexit
import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# The processes that tests start share what they compile until the run ends; workers inherit their
# controller's folder. It is not the folder that is kept (see `pytest_configure`): a process that is
# killed may leave a part of a program.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="taesd-jax-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Emitters and optimizers of code take longer over the tests' many small programs than these run:
# the gradient of a small decode compiles in 0.6 s instead of 7. With TAESD_XLA_FLAGS="" the tests
# run the code that users run.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get(
    "TAESD_XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests compare the bits of calls inside and outside jit, in bfloat16 too; some CPUs compute that
# outside jit with oneDNN. tests/kernels/test_engine.py turns it on.
os.environ["TAESD_JAX_KERNELS"] = "0"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
KEPT_DAYS = 7
CPU_KIND = ("model name", "flags", "Features", "CPU part")


def pytest_configure(config):
    """Let workers and runs share what the tests compile, in a folder of pytest's cache."""
    if not hasattr(config, "cache"):  # -p no:cacheprovider
        return
    folder = config.cache.mkdir(f"programs-{processor()}")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another worker was first
            if path.stat().st_mtime < oldest:
                path.unlink()


def processor():
    """Return a digest of the processor's kind, which JAX's keys of compiled programs leave out."""
    kind = {platform.machine(), platform.processor()}
    if (info := Path("/proc/cpuinfo")).exists():
        kind |= {line for line in info.read_text().splitlines() if line.startswith(CPU_KIND)}
    return hashlib.sha256(repr(sorted(kind)).encode()).hexdigest()[:12]


@pytest.fixture(scope="session")
def published():
    """Return the folder of published weights; skip without it, unless TAESD_WEIGHTS names it."""
    if named := os.environ.get("TAESD_WEIGHTS"):
        assert Path(named).is_dir(), f"TAESD_WEIGHTS names no folder: {named}"
        return Path(named)
    if not WEIGHTS.is_dir():
        pytest.skip("published weights are not at hand; set TAESD_WEIGHTS to their folder")
    return WEIGHTS


@pytest.fixture(scope="session")
def photos():
    """Return real photographs as float32 images (h, w, 3) in [-1, 1]."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    from taesd_jax.io import from_uint8

    china, flower = load_sample_images().images
    return {
        "astronaut": from_uint8(data.astronaut()),
        "coffee": from_uint8(data.coffee()),
        "cat": from_uint8(data.chelsea()),
        "china": from_uint8(china),
        "flower": from_uint8(flower),
    }


@pytest.fixture(scope="session")
def photographs(photos, tmp_path_factory):
    """Return a folder of three of the photographs as PNG files."""
    from taesd_jax.io import write_image

    folder = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut", "coffee", "cat"):
        write_image(folder / f"{name}.png", photos[name])
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return the path of a small random model."""
    from trainings import SMALL

    import taesd_jax

    path = tmp_path_factory.mktemp("teacher") / "teacher"
    params = taesd_jax.init(jax.random.key(1), config=SMALL)
    taesd_jax.save(path, params, SMALL, format="original")
    return path


@pytest.fixture(autouse=True, scope="module")
def free_programs():
    """Let go of compiled programs: all of them together take more memory maps than Linux allows."""
    yield
    jax.clear_caches()


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """Run the test inside an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

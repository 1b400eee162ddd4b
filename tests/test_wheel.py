"""The built wheel: what is in it, and that it works away from the checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.process]

ROOT = Path(__file__).parents[1]
FOLDERS = {"taesd_jax": "taesd_jax", "convert": "taesd_jax/convert"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the sdist, and the wheel from the sdist, out of a copy of the sources."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    for name in ("taesd_jax", "convert", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        if path.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, ignore=ignore)
        else:
            shutil.copy(path, source / name)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built) as file:
        names = {n for n in file.namelist() if ".dist-info/" not in n}
        metadata = next(n for n in file.namelist() if n.endswith("METADATA"))
        text = file.read(metadata).decode()
        licenses = [n for n in file.namelist() if n.endswith("LICENSE")]
    bundled = {f"taesd_jax/bundled/{p.name}" for p in (ROOT / "taesd_jax" / "bundled").iterdir()}
    expected = {"taesd_jax/py.typed", *bundled}
    for folder, target in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(f"{target}/{path.relative_to(ROOT / folder).as_posix()}")
    assert names == expected
    assert licenses
    assert "Requires-Dist: jax" in text
    core = [
        line
        for line in text.split("\n")
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    names = {line.split()[1].split(">")[0].split("=")[0].split("<")[0].rstrip(";") for line in core}
    assert names == {"jax", "flax", "numpy", "safetensors", "huggingface_hub", "pillow"}
    # The small model is most of it.
    assert built.stat().st_size < 4_000_000


def test_the_wheel_works_away_from_the_checkout(built, tmp_path):
    # The wheel alone in a fresh environment; its dependencies are those of the running one.
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    site = next((environment / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(built) as file:
        file.extractall(site)
    here = [p for p in sys.path if p.endswith("site-packages")]
    code = (
        "import taesd_jax, sys, importlib.util\n"
        "assert importlib.util.find_spec('convert') is None\n"
        "assert importlib.util.find_spec('taesd_jax.convert') is not None\n"
        f"assert taesd_jax.__file__.startswith({str(environment)!r}), taesd_jax.__file__\n"
        "from taesd_jax.cli import main; sys.exit(main(['--version']))"
    )
    # Behind the wheel's own folder, so that it is what gets imported.
    path = os.pathsep.join([str(site), *here])
    done = subprocess.run(
        [environment / "bin" / "python", "-S", "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()

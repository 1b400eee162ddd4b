"""Which notebooks `.ci/run` executes again: those of which an input changed."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = """
[project]
dependencies = ["jax"]
optional-dependencies = { notebooks = ["matplotlib"] }
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "taesd_jax/__init__.py": "from .codec import decode",
    "taesd_jax/codec.py": "def decode():\n    from . import layers",
    "taesd_jax/layers.py": "",
    "taesd_jax/cli/__init__.py": "",
    "taesd_jax/bundled/small": "",
    "convert/__init__.py": "",
    "notebooks/images/cat": "",
}


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Return the script, in a small checkout."""
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / ".ci" / "notebooks.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    sources = {name: tmp_path / path.name for name, path in script.SOURCES.items()}
    monkeypatch.setattr(script, "SOURCES", sources)
    return script


def write(path, code):
    cells = [{"cell_type": "code", "source": code}, {"cell_type": "markdown", "source": "# Words"}]
    path.write_text(json.dumps({"cells": cells}))
    return path


@pytest.mark.parametrize("changed", [*FILES, "code"])
def test_a_changed_input_changes_the_digest(notebooks, tmp_path, changed):
    notebook = write(tmp_path / "n.ipynb", ["import taesd_jax\n", "taesd_jax.decode()"])
    before = notebooks.digest_of(notebook)
    if changed == "code":
        write(notebook, "import taesd_jax")
    else:
        (tmp_path / changed).write_text(FILES[changed].replace("jax", "jax>=1") + "\n# more")
    unused = changed in ("taesd_jax/cli/__init__.py", "convert/__init__.py")
    assert (notebooks.digest_of(notebook) == before) == unused


def test_modules_are_found_by_import_and_by_attribute(notebooks, tmp_path):
    used = {
        "from taesd_jax.convert import from_torch": "convert/__init__.py",
        "import taesd_jax\ntaesd_jax.convert.from_torch()": "convert/__init__.py",
        "def f():\n    from taesd_jax import cli": "taesd_jax/cli/__init__.py",
    }
    for code, path in used.items():
        assert tmp_path / path in notebooks.sources_of(code)


def test_a_recorded_notebook_is_not_named(notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "RECORD", tmp_path / "notebooks.json")
    write(tmp_path / "notebooks" / "n.ipynb", "import taesd_jax")
    for arguments, named in (([], "notebooks/n.ipynb\n"), (["--record"], ""), ([], "")):
        monkeypatch.setattr("sys.argv", ["notebooks.py", *arguments])
        notebooks.main()
        assert capsys.readouterr().out == named

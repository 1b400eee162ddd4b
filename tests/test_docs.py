"""README.md and docs/: every snippet runs as pasted, page by page, offline."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models import random_model

import taesd_jax
from taesd_jax.cli import main
from taesd_jax.io import write_image
from taesd_jax.weights.sources import BUNDLED

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMIT = "0" * 40
# Takes more pixels than are quick here; tests/model/test_thumbnails.py runs it.
TRIED_ELSEWHERE = ("fit-thumbnails",)
HUB_MODELS = ("taesd", "taesdxl")


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """Fill the hub's cache with random models under the published names."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    for name in HUB_MODELS:
        root = folder / f"models--madebyollin--{name}"
        params, config = random_model(taesd_jax.VARIANTS[name])
        taesd_jax.save(root / "snapshots" / COMMIT, params, config, format="diffusers")
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(COMMIT)


@pytest.fixture
def photo_folder(working_folder, photos):
    """An empty folder but for the photographs that the snippets read."""
    Path("photos").mkdir()  # trained on, in crops of 96 pixels
    for name, side in (("photo.jpg", 48), ("photo.tif", 48), ("photos/a.jpg", 112)):
        write_image(name, photos["coffee"][:side, : side + 16])
    shutil.copy(BUNDLED / "thumbnails.safetensors", ".")
    return working_folder


def run_commands(text):
    for line in text.replace("\\\n", " ").splitlines():
        if " | " in line:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            shell = ["bash", "-o", "pipefail", "-c", line]
            subprocess.run(shell, check=True, env=os.environ | {"PATH": path})
            continue
        words = shlex.split(line, comments=True)
        if words[:1] == ["taesd-jax"] and words[1] not in TRIED_ELSEWHERE:
            assert main(words[1:]) == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_snippets_run_as_pasted(page, hub, photo_folder):
    namespace = {}
    for language, text in SNIPPET.findall((ROOT / page).read_text()):
        if language == "python":
            exec(compile(text, page, "exec"), namespace)
        else:
            run_commands(text)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_imported_names_are_public(page):
    imports = re.findall(r"^from (taesd_jax[\w.]*) import (.+)$", (ROOT / page).read_text(), re.M)
    for package, names in imports:
        assert set(names.split(", ")) <= set(importlib.import_module(package).__all__), package

"""What importing costs, which way imports run, and that examples in docstrings are true."""

import ast
import doctest
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "taesd_jax").rglob("*.py")
    if path.name != "__main__.py"
)

# Lower layers never import higher ones; files of one row do not import each other. A folder is one
# entry, and its files are ordered in its own row below.
ORDER = [
    {"errors", "variants", "config_checks", "lazy", "outputs", "version"},
    {"config"},
    {"io", "kernels", "metrics"},
    {"model"},
    {"weights", "latents", "surface"},
    {"strategies"},
    {"autoencoder"},
    {"exporting", "pipelines", "video"},
    {"previews"},
    {"training", "datasets"},
    {"cli", "public"},
]
INSIDE = {
    "datasets": [
        {"records"},
        {"parquet", "array_records", "tars"},
        {"formats"},
        {"manifest", "locations"},
        {"reader", "checks", "containers"},
        {"sources", "pictures"},
        {"plan"},
        {"batches", "shards"},
        {"encoding"},
        {"local", "on_ray"},
    ],
    "model": [
        {"layers"},
        {"convolutions", "inputs", "validation"},
        {"blocks"},
        {"modules"},
        {"functional"},
        {"thumbnails"},
        {"fitting"},
    ],
    "strategies": [
        {"strategy", "sharding", "placement"},
        {"geometry"},
        {"memory", "parts"},
        {"strips", "tiles"},
        {"run", "iterators"},
        {"planner"},
        {"compilation"},
    ],
    "video": [
        {"config"},
        {"layers", "frames"},
        {"params"},
        {"advance", "tensors"},
        {"checkpoints"},
        {"validation"},
        {"functional"},
        {"iterators"},
        {"autoencoder"},
        {"nnx_modules"},
        {"public"},
    ],
}
PACKAGES = [
    "taesd_jax",
    *(
        f"taesd_jax.{name}"
        for name in ("io", "pipelines", "previews", "training", "video", "datasets")
    ),
]
NO_TORCH = ("torch", "optax", "PIL", "huggingface_hub", "safetensors", "convert")


def imports(path):
    """Yield (module, inside a function) for every import in a file of the package."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module, id(node) in inside
                continue
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [name.name for name in node.names]
            for name in names:
                yield ".".join((*base, name)), id(node) in inside


def rank(rows, name):
    return next(i for i, row in enumerate(rows) if name in row)


def test_imports_run_one_way():
    checked = 0
    for path in (ROOT / "taesd_jax").rglob("*.py"):
        _, *parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0].startswith("__"):
            continue
        for module, _ in imports(path):
            if not module.startswith("taesd_jax."):
                continue
            others = module.split(".")[1:]
            rows = ORDER
            if parts[0] == others[0]:
                if parts[0] not in INSIDE or parts[-1] == "__init__":
                    continue
                rows, parts_, others = INSIDE[parts[0]], parts[1:], others[1:]
            else:
                parts_ = parts
            assert rank(rows, others[0]) < rank(rows, parts_[0]), (path, module)
            checked += 1
    assert checked > 30


def test_nothing_in_the_package_imports_the_torch_side_or_heavy_things_at_import():
    for path in (ROOT / "taesd_jax").rglob("*.py"):
        for module, inside in imports(path):
            top = module.split(".")[0]
            assert not module.startswith("taesd_jax.convert"), path
            apart = top == "optax" and path.parent.name == "training"
            assert inside or apart or top not in NO_TORCH, (path, module)


def test_config_layers_and_names_need_no_jax():
    names = ("weights/names", "weights/recognition")
    video = ("video/config", "video/layers", "video/frames", "video/tensors")
    for name in ("config", "model/layers", "errors", "io/files", *names, *video):
        path = ROOT / "taesd_jax" / f"{name}.py"
        assert not [m for m, _ in imports(path) if m.split(".")[0] in ("jax", "flax")]


def test_convert_imports_the_library_by_name():
    # Its folder is `convert` in a checkout and `taesd_jax.convert` once installed, so that it can
    # name neither itself nor a package above it.
    library = 0
    for path in (ROOT / "convert").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, (path, node.lineno)
                continue
            names = [alias.name for alias in getattr(node, "names", ())]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            elif not isinstance(node, ast.Import):
                continue
            for name in names:
                assert not f"{name}.".startswith(("convert.", "taesd_jax.convert.")), (path, name)
                library += name.startswith("taesd_jax.")
    assert library > 10


# `taesd_jax` in a checkout that pip did not install, and with PyTorch hidden.
NOT_INSTALLED = """
import sys
class Hidden:
    def find_spec(name, *_):
        if name == {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden)
import taesd_jax
assert taesd_jax.__version__
try:
    taesd_jax.convert
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("hidden", "advice"),
    [
        ("taesd_jax.convert", "pip install -e ."),
        ("torch", "pip install 'taesd-jax[torch]'"),
    ],
)
def test_the_torch_side_says_what_it_needs(hidden, advice):
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED.format(hidden=hidden)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert advice in done.stdout


def test_the_torch_side_is_an_attribute():
    pytest.importorskip("torch")
    import taesd_jax

    assert taesd_jax.convert.from_torch is importlib.import_module("taesd_jax.convert").from_torch
    with pytest.raises(AttributeError, match="no attribute 'convert_all'"):
        taesd_jax.convert_all  # noqa: B018


@pytest.mark.process
@pytest.mark.parametrize("statement", ["from taesd_jax import init", "from taesd_jax import *"])
def test_importing_is_quiet_and_starts_no_backend(statement):
    code = f"""
import sys
import jax
from flax import nnx
before = set(sys.modules)
{statement}
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
assert not new & {{"torch", "optax", "PIL", "huggingface_hub", "safetensors", "convert"}}, new
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning:taesd_jax"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.process
def test_jax_is_imported_when_a_name_is_used():
    code = """
import sys
import taesd_jax, taesd_jax.cli, taesd_jax.cli.command
assert not {"jax", "numpy"} & set(sys.modules)
assert "jax" not in dir(taesd_jax) and "decode" in dir(taesd_jax)
from taesd_jax import decode, strategies
assert "jax" in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    count = sum(
        len(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
    )
    assert count >= 15


def public_names(package):
    """Return what a package exports, by name."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package):
    # In its source: dataclasses and named tuples write one of their own where there is none.
    for name, thing in public_names(package).items():
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        (node,) = ast.parse(inspect.getsource(inspect.unwrap(thing))).body
        members = node.body if isinstance(node, ast.ClassDef) else []
        # Of overloads only the last, the function itself, stays.
        members = {m.name: m for m in members if isinstance(m, ast.FunctionDef)}
        public = [m for m in members.values() if not m.name.startswith("_")]
        for each in (node, *public):
            assert ast.get_docstring(each), (name, each.name)


def test_public_packages_are_attributes():
    import taesd_jax

    for package in PACKAGES[1:]:
        name = package.removeprefix("taesd_jax.")
        assert getattr(taesd_jax, name) is importlib.import_module(package)
    with pytest.raises(AttributeError, match="taesd_jax.*no attribute 'nothing'"):
        taesd_jax.nothing  # noqa: B018

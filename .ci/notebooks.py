"""Say which notebooks have to be executed again, and record that they were.

    python .ci/notebooks.py            print those whose inputs differ from the recorded ones
    python .ci/notebooks.py --record   record the inputs of all, once they ran

A notebook's inputs are its code, the files of the package that it imports, directly or through
others, what comes with the package, the images, and the dependencies that pyproject.toml states.
Their digests are in notebooks.json beside this file, which is committed.
"""

import ast
import hashlib
import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_name("notebooks.json")
# Where the sources of an installed name lie in a checkout; the longer name comes first.
SOURCES = {"taesd_jax.convert": ROOT / "convert", "taesd_jax": ROOT / "taesd_jax"}


def code_of(notebook):
    """Return a notebook's code cells as one text."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def file_of(name):
    """Return the file of a module of the package, or None."""
    for package, folder in SOURCES.items():
        if name == package or name.startswith(package + "."):
            path = folder.joinpath(*name.removeprefix(package).split("."))
            both = (path / "__init__.py", path.with_suffix(".py"))
            return next((path for path in both if path.is_file()), None)
    return None


def imported(text, package=""):
    """Yield all names that a text imports, anywhere, and what may be modules in them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else ()), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)  # taesd_jax.convert, after `import taesd_jax`


def sources_of(text):
    """Return the package's files that a text imports, with all that those import."""
    found, waiting = {}, list(imported(text))
    while waiting:
        name = waiting.pop()
        # Importing a.b.c runs a and a.b too.
        for end in range(1, name.count(".") + 2):
            module = ".".join(name.split(".")[:end])
            path = file_of(module)
            if path is None or module in found:
                continue
            found[module] = path
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            waiting += imported(path.read_text(), package)
    return sorted(set(found.values()))


def digest_of(notebook):
    """Return the digest of all inputs of a notebook."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [project["dependencies"], project["optional-dependencies"]["notebooks"]]
    code = code_of(notebook)
    files = [*sources_of(code), *sorted((ROOT / "taesd_jax" / "bundled").iterdir())]
    files += sorted(p for p in (ROOT / "notebooks" / "images").rglob("*") if p.is_file())
    digest = hashlib.sha256(json.dumps([stated, code]).encode())
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main():
    now = {path.name: digest_of(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    if sys.argv[1:] == ["--record"]:
        RECORD.write_text(json.dumps(now, indent=2) + "\n")
        return
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, digest in now.items():
        if recorded.get(name) != digest:
            print(f"notebooks/{name}")


if __name__ == "__main__":
    main()

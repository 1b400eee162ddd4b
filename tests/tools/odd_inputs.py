"""Try bad and odd inputs on the command and the Python functions, and count what goes wrong.

    python tests/tools/odd_inputs.py

A case goes wrong if it ends in an exception that is not ours, gives a result where it must be
refused, is refused where it must work, or changes a file that was there. The cases are those of
odd_cases.py and odd_calls.py.
"""

import argparse
import collections
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

# A message that begins with the type of an exception is one that nobody thought of.
UNEXPECTED = re.compile(r"error: (\[\d+/\d+\] )?(\S+: )?[A-Za-z_.]+(Error|Exception)\b:|Traceback")


class Case(NamedTuple):
    """One input.

    Attributes:
        group: What is odd.
        run: Arguments of the command, text for a shell, or a function.
        expected: Exit status, several, or "works" or "refused" for functions; None for any.
        files: Name -> bytes, or a function of a path, to be made first; they must not change.
        changes: Names of files that may change.
    """

    group: str
    run: object
    expected: object = None
    files: dict = {}  # noqa: RUF012  never changed
    changes: tuple = ()


def make_files(files):
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else content(path)


def snapshot():
    """Return the bytes of every regular file, and where every link leads."""
    found = {}
    for path in Path().rglob("*"):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def run_command(words):
    """Return the exit status of the command and what it printed as errors."""
    from taesd_jax.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([*map(str, words)])
        except SystemExit as error:
            status = error.code
        except BaseException:
            return "raised", traceback.format_exc()
    if {"\x1b", "\x9b"} & {*out.getvalue(), *err.getvalue()}:
        return "escape codes", out.getvalue() + err.getvalue()
    return status, err.getvalue()


def run_shell(text):
    # Unbuffered, argparse would ignore a full disk.
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    command = ["sh", "-c", text]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, env=environment)
    return done.returncode, done.stderr.decode(errors="replace")


def run_function(function):
    """Return "works" or "refused", or "raised" where the exception is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function()
        except (ValueError, TypeError, OSError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1].filename
            # What pathlib says of a path that is none is clear as well.
            ours = re.search(r"/taesd_jax/|/pathlib", place) or isinstance(error, OSError)
            return ("refused" if ours else "raised"), traceback.format_exc()
        except Exception:
            return "raised", traceback.format_exc()
    return "works", ""


def fault_of(case):
    """Run a case in the present, empty folder; return what is wrong, or ""."""
    make_files(case.files)
    before = snapshot()
    if callable(case.run):
        status, text = run_function(case.run)
    else:
        status, text = (run_shell if isinstance(case.run, str) else run_command)(case.run)
    if status == "raised" or (not callable(case.run) and UNEXPECTED.search(text)):
        return f"trace: {text.strip()[-600:]}"
    after = snapshot()
    lost = [n for n, x in before.items() if after.get(n) != x and n not in case.changes]
    if lost:
        return f"lost file: {', '.join(lost)}"
    expected = case.expected if isinstance(case.expected, tuple) else (case.expected,)
    if case.expected is not None and status not in expected:
        return f"wrong outcome: {status}, expected {case.expected}: {text.strip()[-300:]}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--groups", nargs="+", help="only these")
    args = parser.parse_args()
    from odd_calls import calls
    from odd_cases import SHARED, cases

    counts, wrong = collections.Counter(), collections.Counter()
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as shared:
        os.chdir(shared)
        make_files(SHARED)
        for i, case in enumerate([*cases(Path(shared)), *calls(Path(shared))]):
            if args.groups and case.group not in args.groups:
                continue
            counts[case.group] += 1
            folder = Path(shared) / f"case-{i}"
            folder.mkdir()
            os.chdir(folder)
            if fault := fault_of(case):
                wrong[case.group] += 1
                shown = getattr(case.run, "label", case.run)
                print(f"{case.group}: {shown!r}\n    {fault}", file=sys.stderr, flush=True)
        os.chdir(home)
    for group, count in counts.items():
        print(f"{group:10} {count:4} inputs, {wrong[group]} handled wrongly")
    print(f"{'all':10} {counts.total():4} inputs, {wrong.total()} handled wrongly")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Many small programs run once each.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    main()

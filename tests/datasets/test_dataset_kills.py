"""`encode-dataset`, killed at random moments, comes to the bytes of an undisturbed run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "kill_dataset.py"


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
@pytest.mark.parametrize("format", ["parquet", "array_record", "webdataset"])
def test_kills_change_nothing(format):
    if format != "webdataset":
        pytest.importorskip({"parquet": "pyarrow", "array_record": "array_record"}[format])
    command = [sys.executable, str(TOOL), "--times", "3", "--formats", format]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "3 kills" in done.stdout
    assert "0 files left over" in done.stdout

"""Every fuzzer finds nothing in 10,000 runs; with atheris if installed, otherwise with mutants of valid input."""

import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = sorted(Path(__file__).parent.glob("fuzz_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_nothing_but_peer_errors_comes_out(target, tmp_path):
    command = [sys.executable, str(target), "-atheris_runs=10000", "-seed=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]

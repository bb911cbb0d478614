"""Every way that plait computes, on a device that refuses tensors of the CPU: no mismatch, and the CPU's numbers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from simulations.bench.same import RULES, checks
from tests.pretend import cuda

ROOT = Path(__file__).parents[2]
# bitsandbytes' parameters cannot hold a pretended tensor.
NOT_HERE = {"method qlora"}
RUNS = {f"run with rule {rule}" for rule in RULES}
QUICK_RUN = "run with rule fedsvd"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("c++") is None:
        pytest.skip("there is no compiler")
    return cuda.build(tmp_path_factory.mktemp("pretended"))


def check_all(library: Path, names: Collection[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretend.checks", str(library), ",".join(sorted(names))],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    found = {
        row["name"]: row for row in map(json.loads, filter(lambda line: line[:1] == "{", done.stdout.splitlines()))
    }
    assert found.pop("planted", {}).get("caught") == [True] * 7, done.stderr[-2000:]
    assert {name: row["error"] for name, row in found.items() if "error" in row} == {}
    assert set(found) == set(names)
    assert {name: row["difference"] for name, row in found.items() if not row["difference"] <= row["tolerance"]} == {}


def test_training_evaluation_generation_and_a_run_never_mix_devices(library):
    names = {check.name for check in checks()}
    assert names > RUNS | NOT_HERE
    check_all(library, names - NOT_HERE - RUNS | {QUICK_RUN})


def test_runs_with_the_other_kinds_of_rules_never_mix_devices(library):
    check_all(library, RUNS - {QUICK_RUN})

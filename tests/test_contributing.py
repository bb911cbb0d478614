"""What CONTRIBUTING.md adds (a rule, codec, method, scheme) applies to the code as it is, and its tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTION = PAGE.partition("## Adding a rule, a codec, a method, a partition scheme\n")[2].partition("\n## ")[0]
DIFFS = re.findall(r"^```diff\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
COPIED = ("plait", "server", "client", "proto", "tests", "pyproject.toml")


@pytest.mark.slow
def test_what_the_page_adds_can_be_added_and_its_tests_pass(tmp_path: Path) -> None:
    assert len(DIFFS) == 4
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, tmp_path / name, **({"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}))
    added = [path for diff in DIFFS for path in re.findall(r"^\+\+\+ b/(tests/\S+)$", diff, re.MULTILINE)]
    assert len(added) >= len(DIFFS)
    for diff in DIFFS:
        applied = subprocess.run(
            ["git", "apply", "-"], cwd=tmp_path, input=diff, capture_output=True, text=True, check=False
        )
        assert applied.returncode == 0, applied.stderr
    # The copy comes first; what is not in it comes from where it is installed.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    (rule,) = re.findall(r'^\+    name="(\w+)",$', DIFFS[0], re.MULTILINE)
    contract = f"tests/plait/aggregation/test_contract.py::test_every_rule_keeps_its_contract[{rule}]"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *added, contract]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout

"""What CONTRIBUTING.md adds (an event, rule, codec, method, scheme) goes into the code as it is, and its tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTION = PAGE.partition("## Adding a rule, a codec, a method, a partition scheme\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(
    r"^```(?:python|proto|text)\n(?:#|//) (\S+?)(?:, (before|after|in place of): ([^\n]+))?\n(.*?)^```$",
    PAGE,
    re.MULTILINE | re.DOTALL,
)
EVENTS = "tests/plait/rounds/test_events.py"
COPIED = ("plait", "server", "client", "proto", "tests", "pyproject.toml")


def written(file: Path, how: str, line: str, block: str) -> str:
    """A file with a block, which is the whole of a new one."""
    if not how:
        assert not file.exists()
        return block
    lines = file.read_text().splitlines(keepends=True)
    (at,) = (number for number, each in enumerate(lines) if each.strip().startswith(line))
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    if how == "after":
        indent += "    "
    first, last = at + (how == "after"), at + (how != "before")
    return "".join([*lines[:first], textwrap.indent(block, indent), *lines[last:]])


@pytest.mark.slow
def test_what_the_page_adds_can_be_added_and_its_tests_pass(tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, tmp_path / name, **({"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}))
    for path, how, line, block in BLOCKS:
        (tmp_path / path).write_text(written(tmp_path / path, how, line, block))
    added = [path for path, *_ in BLOCKS if path.startswith("tests/")]
    assert len(added) == SECTION.count("\n### ") == 4
    # The copy comes first; what is not in it comes from where it is installed.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    (rule,) = re.findall(r'^    name="(\w+)",$', BLOCKS[1][3], re.MULTILINE)
    contract = f"tests/plait/aggregation/test_contract.py::test_every_rule_keeps_its_contract[{rule}]"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *added, contract, EVENTS]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout

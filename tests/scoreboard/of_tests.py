"""Rows whose claims are tests that stand elsewhere, run in a process that may lack a defence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from scoreboard.row import Row

TESTS = Path(__file__).resolve().parents[1]
OF_TESTS: Mapping[str, Sequence[str]] = {
    "privacy": (
        "plait/privacy/test_mechanism.py", "plait/privacy/test_noise.py", "plait/privacy/test_private_rounds.py",
        "plait/secagg/test_exchange.py", "plait/secagg/test_noised_rounds.py", "plait/wire/test_vectors.py",
        "plait/test_settle.py::test_a_private_run_turns_off_what_reads_single_clients_and_its_noise_follows_from_epsilon_and_rounds",
    ),
    "private_records": (
        "plait/privacy/test_record.py", "plait/privacy/test_mechanism.py", "plait/training/test_private_steps.py",
    ),
    "one_member": ("plait/secagg/test_one_member.py",),
}  # fmt: skip
"""The tests of each row, below `tests/`."""


def row_of_tests(row: str, scratch: Path) -> Row:
    return Row.of(row, complaints_of(OF_TESTS[row], scratch), least=10)


def complaints_of(tests: Sequence[str], scratch: Path) -> dict[str, str]:
    """What is wrong with each test, empty where it passes; without a defence, up to the first that fails."""
    report, environment = scratch / "tests.xml", dict(os.environ)
    options = ["-q", "-n", "0", "--tb=native", "-o", "addopts=--strict-markers --import-mode=importlib -p no:logging"]
    if "PLAIT_SCOREBOARD_WITHOUT" in environment:
        options.append("-x")
        environment["PYTHONPATH"] = os.pathsep.join([str(TESTS / "scoreboard/without"), environment["PYTHONPATH"]])
    paths = [str(TESTS / each) for each in tests]
    command = [sys.executable, "-m", "pytest", *options, f"--junit-xml={report}", *paths]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    # Where the last frame is that of a mutation, it is the mutation's own fault.
    sys.stderr.write(done.stdout if done.returncode else "")
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            wrong = next((each for each in case if each.tag in ("failure", "error")), None)
            name = f"{case.get('classname')}.{case.get('name')}".removeprefix("tests.")
            found[name] = f"fails: {wrong.get('message')}" if wrong is not None else ""
    return found

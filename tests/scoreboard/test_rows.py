"""The scoreboard's rows in their quick form (`make scoreboard` runs them in full); parsers are fuzzed in tests/fuzz."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
ROWS = (
    "soak", "malformed", "forged", "killed", "clients_killed", "network", "straggler", "door", "members", "names",
    "planted", "hostile", "privacy", "private_records",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="a system without /proc"),
]


# In a process of its own each, so that they spread over workers.
@pytest.mark.parametrize("row", ROWS)
def test_everything_that_was_tried_held(row):
    command = [sys.executable, str(RUN), "--quick", "--rows", row]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(said) == 1, done.stderr[-2000:]
    assert said[0]["ok"], said[0].get("failures")


def test_a_row_fails_without_what_it_rests_on():
    command = [sys.executable, str(RUN), "--quick", "--rows", "forged", "--without", "signature"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0])["passed"] < 250

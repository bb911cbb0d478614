"""The scoreboard's rows in their quick form (`make scoreboard` runs them in full); parsers are fuzzed in tests/fuzz."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command

RUN = Path(__file__).with_name("run.py")
# Those that start servers and nodes share the process that these are forked from.
ROWS = (
    "soak", "malformed,forged", "killed,clients_killed,privacy", "network,straggler,members", "door", "names",
    "planted", "hostile", "private_records", "one_member",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="a system without /proc"),
]


# In processes of their own, so that they spread over workers; forked, so that none takes time to load libraries.
FORKED = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize("rows", ROWS)
def test_everything_that_was_tried_held(rows):
    done = run_command(RUN, "--quick", "--rows", rows, program=FORKED, timeout=1800)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(said) == rows.count(",") + 1, done.stderr[-2000:]
    assert [row for row in said if not row["ok"]] == []


def test_a_row_fails_without_what_it_rests_on():
    command = [sys.executable, str(RUN), "--quick", "--rows", "forged", "--without", "signature"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0])["passed"] < 250

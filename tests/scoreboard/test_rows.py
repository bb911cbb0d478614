"""The scoreboard's rows in their quick form (`make scoreboard` runs them in full); parsers are fuzzed in tests/fuzz."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command

RUN = Path(__file__).with_name("run.py")
# Those that start servers and nodes share the process that these are forked from. Rows of tests (`of_tests.py`)
# are left out: these run by themselves.
ROWS = (
    "soak", "killed,clients_killed", "network,straggler,floods", "hostile_node", "directories", "sums,liar,sizes",
    "evidence", "canaries",
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
    assert (
        "test_a_signature_covers_every_bit_of_an_update: fails"
        in json.loads(done.stdout.splitlines()[0])["failures"][0]
    )


TAKEN_OUT = f"""
import os, sys
sys.path[:0] = {[str(RUN.parents[1]), str(RUN.parents[2])]!r}
import plait.cli.main, scoreboard.floods  # once, not in each process
from scoreboard.mutations import MUTATIONS
for name, mutation in MUTATIONS.items():
    pid = os.fork()
    if not pid:
        try:
            mutation.take_out()
        except BaseException as error:
            print(f"{{name}}: {{type(error).__name__}}: {{error}}", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
print(len(MUTATIONS), "tried")
"""


def test_every_mutation_finds_what_it_takes_out():
    done = run_command(program=TAKEN_OUT, timeout=600)
    (tried,) = done.stdout.splitlines() or [done.stderr[-2000:]]
    assert tried.endswith(" tried")
    assert int(tried.split()[0]) > 80


HOLDS, FAILS = '{"ok": true}', '{"ok": false, "failures": ["NaN: accepted"]}'
OF_ITSELF = """Traceback (most recent call last):
  File "tests/scoreboard/mutations.py", line 7, in once
    return later[0]
           ~~~~~^^^
IndexError: list index out of range
"""


@pytest.mark.parametrize(
    ("line", "errors", "whole", "verdict"),
    [
        (FAILS, "", HOLDS, "yes"),
        (HOLDS, "", HOLDS, "NO"),
        ("", "AttributeError: module has no attribute 'open_update'", HOLDS, "BROKEN"),
        (FAILS, "", FAILS, "BROKEN"),
        (FAILS, OF_ITSELF, HOLDS, "BROKEN"),
    ],
)
def test_a_row_fails_for_lack_of_a_mutated_defence_alone(line, errors, whole, verdict):
    from tests.scoreboard.mutations import judged

    assert judged(line, errors, whole=whole)[0] == verdict

"""Every fuzzer finds nothing in 1,000 runs, with atheris if installed, otherwise with mutants of valid input.

`make scoreboard` has 100,000 of each.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.fuzz.harness import HAS_ATHERIS

TARGETS = sorted(Path(__file__).parent.glob("fuzz_*.py"))
# In a process that is forked; atheris has to see a target's imports, in one that has imported nothing.
FORKED = """
import runpy, sys
del sys.argv[0]
sys.path.insert(0, sys.argv.pop(1))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_nothing_but_peer_errors_comes_out(target, tmp_path):
    options = ("-atheris_runs=1000", "-seed=1")
    if HAS_ATHERIS:
        # By way of a shell that forks, because a program that is executed inherits its process's peak of memory.
        command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, str(target), *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    else:
        done = run_command(target, target.parent, *options, cwd=tmp_path, program=FORKED, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert HAS_ATHERIS or "1000 mutants" in done.stdout


@pytest.mark.slow
def test_an_input_that_never_ends_is_a_failure_and_is_kept(tmp_path):
    hanging = tmp_path / "hanging.py"
    hanging.write_text(
        "import harness\n"
        "harness.LIMIT_S = 0.2\n"
        "def parse(data):\n"
        "    while data == b'endless':\n"
        "        try:\n"
        "            1 / 0\n"
        "        except Exception:\n"
        "            pass\n"
        "harness.main(parse, [b'short', b'endless'])\n"
    )
    done = run_command(hanging, Path(__file__).parent, "-atheris_runs=1", cwd=tmp_path, program=FORKED, timeout=180)
    assert done.returncode != 0
    assert "HangError: no end after 0.2 s" in done.stderr
    (kept,) = tmp_path.glob("hang-*")
    assert kept.read_bytes() == b"endless"

import sys
import time
from pathlib import Path

import pytest

from plait.errors import MachineError
from simulations.bench.process_tree import measured

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# A child in a session of its own, whose parent ends at once: no one's descendant any more.
DETACHED = """
import subprocess, sys
child = "held = bytearray(b'x') * (60 << 20); import time; time.sleep(0.1)\\nwhile time.process_time() < 0.5: pass"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True).wait()
print("done")
"""


@pytest.mark.slow
def test_memory_and_time_of_processes_that_detach_themselves_count(tmp_path):
    took = measured([sys.executable, "-c", DETACHED], cwd=tmp_path)
    assert took.output == "done\n"
    assert took.peak_bytes > 60 << 20
    assert took.processor_s > 0.2
    assert took.wall_s > 0.5


@pytest.mark.slow
def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(MachineError, match="failed with code 3: no such thing"):
        measured([sys.executable, "-c", "import sys; sys.stderr.write('no such thing'); sys.exit(3)"], cwd=tmp_path)


@pytest.mark.slow
def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    # The shell is up at once, however busy the machine is.
    program = "setsid sh -c 'echo $$ > pid; exec sleep 600' & wait"
    with pytest.raises(MachineError, match="took longer than 2 s"):
        measured(["sh", "-c", program], cwd=tmp_path, timeout_s=2)
    stat = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
    # It has its signal; on a busy machine it needs a while to die of it.
    for _ in range(600):
        if is_gone(stat):
            return
        time.sleep(0.05)
    raise AssertionError("what the command started is still there")


def is_gone(stat: Path) -> bool:
    try:
        return "Z" in stat.read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return True

"""What a process says of its own memory."""

import subprocess
import sys

import numpy as np
import pytest

from plait.data.bounds import memory_limit
from plait.system import machine


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_most_memory_is_not_handed_down_to_a_child():
    held = np.ones(40_000_000)
    command = [sys.executable, "-c", "from plait.system import machine; print(machine.peak_rss_bytes())"]
    child = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert 0 < child < held.nbytes < machine.peak_rss_bytes()


FILES = """
import resource
from plait.system.machine import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
print(*map(allow_open_files, (200, 50, 9000)), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_the_limit_on_open_files_is_raised_as_far_as_the_system_lets_it():
    said = subprocess.run([sys.executable, "-c", FILES], capture_output=True, check=True, text=True).stdout
    assert said.split() == ["200", "200", "300", "300"]


@pytest.mark.skipif(sys.platform != "linux", reason="no other system keeps a limit on memory")
def test_the_limit_is_gone_after_its_block_and_blocks_may_overlap():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit(64 << 20):
        # More than the allocator of a long process keeps in reserve, which does not count.
        with memory_limit(1 << 40), pytest.raises(MemoryError):
            bytearray(2 << 30)
        with pytest.raises(MemoryError):
            bytearray(2 << 30)
        assert bytearray(16 << 20)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert bytearray(128 << 20)


def test_a_container_has_the_memory_that_it_may_take(monkeypatch, tmp_path):
    files = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(machine, "_CONTAINER_LIMITS", files)
    installed = machine.memory_bytes()
    for text, expected in (("max\n", installed), (f"{1 << 62}\n", installed), ("1000000\n", 1_000_000)):
        files[1].write_text(text)
        assert machine.memory_bytes() == expected

"""What a process says of its own memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from plait import machine


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_most_memory_is_not_handed_down_to_a_child() -> None:
    held = np.ones(40_000_000)
    command = [sys.executable, "-c", "from plait import machine; print(machine.peak_rss_bytes())"]
    child = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert 0 < child < held.nbytes < machine.peak_rss_bytes()

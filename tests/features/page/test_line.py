"""The line between the page and the server beside it."""

from __future__ import annotations

import threading
from multiprocessing import Pipe

import pytest

from plait.errors import MachineError
from plait.features.page.line import Line, answering


def test_a_late_answer_is_no_end_of_the_line_and_a_closed_one_is_said() -> None:
    here, there = Pipe()
    go_on, asked = threading.Event(), 0

    def status_json() -> str:
        nonlocal asked
        asked += 1
        go_on.wait(60)
        return f'{{"asked": {asked}}}'

    thread = answering(here, status_json)
    line = Line(there, patience_s=0.05)
    for _ in range(2):
        with pytest.raises(MachineError, match="does not answer"):
            line.status()
    go_on.set()
    patient = Line(there)
    patient._is_asked = line._is_asked
    assert patient.status() == {"asked": 1}
    assert patient.status() == {"asked": 2}
    there.close()
    thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(MachineError, match="does not answer"):
        patient.status()

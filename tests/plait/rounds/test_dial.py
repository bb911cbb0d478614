"""What a run with fewer than one bit per parameter is told, and where."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from plait.progress import _Viewer
from plait.report.advice import advice
from plait.report.estimate import CostEstimate, CostInputs, estimate_tables
from plait.rounds.dial import dial_sentence
from plait.rounds.events import EVENTS
from tests.plait.conftest import finished, numbered, run_started, view_of


@pytest.mark.parametrize("wire", ["1", "1.5", "8", "fp32", "bf16", "my_codec:Mine", None])
def test_nothing_is_said_where_a_run_keeps_its_gain(wire):
    assert dial_sentence(wire) == ""


def test_below_one_bit_terminal_report_and_estimate_say_what_is_kept():
    started = run_started()
    started |= {"config": {**started.get("config", {}), "wire": "0.5"}}
    sentence = dial_sentence("0.5")
    assert sentence.startswith("0.5 bits per parameter are outside the range in which a run keeps its gain")
    assert sentence in advice(view_of(numbered([started, finished(1)])))
    plan = {"trainable_parameters": 9, "full_model_parameters": 99, "clients": 2, "clients_per_round": 2, "rounds": 1}
    tables = estimate_tables(CostEstimate(CostInputs(**plan, bits_up=0.5, bits_down=0.5)))
    assert sentence in tables[0].note
    screen = Console(file=io.StringIO(), width=1000)
    viewer = _Viewer(screen, Progress(console=screen, disable=True), total=1, rounds=2)
    kind = next(each for each in EVENTS if each.event == started["event"])
    viewer.show(kind.model_validate({key: value for key, value in started.items() if key != "event"}))
    assert screen.file.getvalue().strip() == sentence

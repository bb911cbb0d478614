import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress

from plait.ledger.events import ReplyReceived, RoundStarted
from plait.report.table import Table
from plait.report.terminal import Viewer, to_rich


def render(table: Table, *, width: int = 120) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=width, force_terminal=True, color_system="truecolor").print(to_rich(table))
    return buffer.getvalue()


def test_no_cell_is_read_as_markup():
    shown = render(Table("[bold]t", ("[red]h", "n"), (("[red]x[/red]", "1"),), note="[link=x]"))
    for text in ("[bold]t", "[red]h", "[red]x[/red]", "[link=x]"):
        assert text in shown


def test_no_control_character_of_a_cell_reaches_the_terminal():
    clean = render(Table("t", ("h", "n"), (("na me[2J", "1"),)))
    assert render(Table("t", ("h", "n"), (("na\x1bme[2J\x07\u202e", "1"),))) == clean


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_loses_no_column_and_no_word_of_the_note(width):
    headings = ("client", *(f"figure number {number}" for number in range(12)))
    rows = tuple(
        (name, *(f"{row}.{number:03d}" for number in range(12))) for row, name in enumerate(("Zoë", "李雷" * 10))
    )
    note = "Losses on each client's own held-out data; every client counts once, whatever its size."
    shown = render(Table("t", headings, rows, note=note), width=width)
    assert all(cell in shown for row in rows for cell in row[1:])
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert max(map(cell_len, plain)) <= width
    assert " ".join(" ".join(plain).split()).endswith(note)


def test_what_is_done_next_shows_before_its_first_answer():
    bars = Progress(disable=True)
    viewer = Viewer(bars, rounds=2, cohort=2, evaluators=2)
    for event, doing in (
        (ReplyReceived(client="a", purpose="describe"), "reading data, 1 of 2 clients"),
        (ReplyReceived(client="b", purpose="describe"), "evaluating the base, 0 of 2 clients"),
        (RoundStarted(round=1), "round 1 of 2: training, 0 of 2 clients"),
    ):
        viewer.show(event)
        viewer.refresh()
        assert bars.tasks[0].description == doing

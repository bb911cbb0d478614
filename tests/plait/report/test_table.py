from __future__ import annotations

import io

from rich.console import Console

from plait.report.table import Table, to_rich


def render(table: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=120, force_terminal=True, color_system="truecolor").print(to_rich(table))
    return buffer.getvalue()


def test_no_cell_is_read_as_markup() -> None:
    shown = render(Table("[bold]t", ("[red]h", "n"), (("[red]x[/red]", "1"),), note="[link=x]"))
    for text in ("[bold]t", "[red]h", "[red]x[/red]", "[link=x]"):
        assert text in shown


def test_no_control_character_of_a_cell_reaches_the_terminal() -> None:
    clean = render(Table("t", ("h", "n"), (("name[2J", "1"),)))
    assert render(Table("t", ("h", "n"), (("na\x1bme[2J\x07\u202e", "1"),))) == clean

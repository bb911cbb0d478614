"""``plait flowertune``: a run for a challenge of the FlowerTune LLM leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json
from plait.features.flowertune.entry import BASE, CHALLENGES, write_entry
from plait.progress import say


def flowertune(
    challenge: Annotated[str, typer.Argument(metavar="|".join(CHALLENGES), help="The challenge.", show_default=False)],
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="New or empty; by default flowertune-CHALLENGE.", show_default=False),
    ] = None,
    base: Annotated[str, typer.Option("--base", help="Name or directory of the base.")] = BASE,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a run that keeps the fixed parts of a FlowerTune challenge, and how to run, count and evaluate it.

    Example: plait flowertune finance my-entry
    """
    entry = write_entry(challenge, directory or Path(f"flowertune-{challenge}"), base=base)
    if json_output:
        print_json({"directory": str(entry.directory), "settings": entry.settings.to_table()})
        return
    say(f"wrote {entry.directory / 'run.toml'} and {entry.directory / 'README.md'}, which says what to do", quiet=False)

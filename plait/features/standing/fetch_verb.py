"""``plait fetch``: copy a finished run from a standing server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json, print_text
from plait.features.standing.operating import JsonOutput, Kit, Server, calls_to


def fetch(
    run: Annotated[str, typer.Argument(help="Name of the run, as `plait runs` shows it.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it; a new directory.")],
    server: Server = "localhost:9440",
    kit: Kit = None,
    max_gb: Annotated[float, typer.Option("--max-gb", help="Largest run to fetch.", min=0)] = 20.0,
    json_output: JsonOutput = False,
) -> None:
    """Fetch adapter, report, ledger and settings of a run that is over; of one that failed, ledger and settings.

    Example: plait fetch run-3 runs/third --server fed.example.org:9440 --kit ivo
    """
    files = calls_to(server, kit).fetch(run, directory, max_gb=max_gb)
    if json_output:
        print_json({"run": run, "directory": str(directory), "files": [str(file) for file in files]})
    else:
        print_text(f"fetched {len(files)} files of {run} into {directory}")

"""``plait cancel``: take a run out of the queue of a standing server, or end it."""

from __future__ import annotations

from typing import Annotated

import typer

from plait.cli.output import print_json, print_text
from plait.features.standing.operating import JsonOutput, Kit, Server, calls_to


def cancel(
    run: Annotated[str, typer.Argument(help="Name of the run, as `plait runs` shows it.")],
    server: Server = "localhost:9440",
    kit: Kit = None,
    json_output: JsonOutput = False,
) -> None:
    """Cancel a queued or running run; an operator's kit is needed. Its record stays at the server.

    Example: plait cancel run-3 --server fed.example.org:9440 --kit olga
    """
    was = calls_to(server, kit).cancel(run)
    if json_output:
        print_json({"run": run, "was": was, "state": "cancelled"})
    else:
        print_text(f"cancelled {run}, which was {was}")

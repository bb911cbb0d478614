"""``plait runs``: the queue and the past runs of a standing server."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from plait.cli.output import print_json, print_tables, print_text
from plait.features.standing.operating import JsonOutput, Kit, Server, calls_to


def runs(
    server: Server = "localhost:9440",
    kit: Kit = None,
    before: Annotated[
        str, typer.Option("--before", help="List runs that were submitted before this one.", metavar="RUN")
    ] = "",
    json_output: JsonOutput = False,
) -> None:
    """List the newest queued, running and past runs of a standing server, and the labels of its clients.

    Example: plait runs --server fed.example.org:9440 --kit ivo
    """
    page = calls_to(server, kit).runs(before=before)
    if json_output:
        print_json(page)
        return
    from plait.features.standing.tables import queue_tables
    from plait.text import printable

    print_tables(queue_tables(page))
    clients, number = page.get("clients"), page.get("number_of_clients")
    if isinstance(clients, list) and isinstance(number, int) and number > len(cast("list[object]", clients)):
        print_text(f"{number} clients in all")
    if isinstance(older := page.get("before"), str):
        print_text(f"older runs: plait runs --before {printable(older, limit=64)}")

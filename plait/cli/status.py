"""``plait status``: what a server reports about its run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json, print_tables
from plait.report.status import status_tables
from plait.trust.kit import load_asking


def status(
    server: Annotated[str, typer.Option(help="Address and port of the server.")] = "localhost:9440",
    kit: Annotated[
        Path | None,
        typer.Option(help="Kit of an operator or the server; not needed for an --insecure server."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Ask a server for its round, its clients (and which are late) and the bytes sent.

    Example: plait status --server localhost:9440 --kit fed/server
    """
    from plait.transport.status import fetch_status

    said = fetch_status(server, kit=None if kit is None else load_asking(kit))
    if json_output:
        print_json(said)
        return

    print_tables(status_tables(said))

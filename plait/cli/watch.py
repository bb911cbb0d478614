"""``plait report --live``: a live page of a run, running or finished. Ctrl-C ends it with exit code 0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import run_or_newest
from plait.page.defences import page_token
from plait.report.progress import say


def watch(
    named: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A run, and perhaps one to compare it with; by default the newest in runs/.", metavar="[RUN [OTHER]]"
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Address and port of the page, of this machine alone.")
    ] = "127.0.0.1:9443",
) -> None:
    """Show a run on a live page in the browser: clients, losses, bytes, privacy; a second one side by side.

    The page reads the ledger and changes nothing. Open the printed address, whose token lets you in; from another
    machine, through an SSH tunnel.

    Example: plait report runs/first --live
    """
    from plait.page.app import Page, run_shown, serve
    from plait.page.beside import page_address, shown_address

    runs = [run_shown(place) for place in named or [run_or_newest(None)]]
    address, token = page_address(listen, what="--listen"), page_token()
    page = Page(runs, token=token)
    with address.bind() as listener:
        listener.listen()
        say(f"showing {', '.join(map(str, runs))} on {shown_address(listener, token)}", quiet=False)
        serve(page, listener)
    say("stopped", quiet=False)

"""``plait watch``: a live page of runs, running or finished. Ctrl-C ends it with exit code 0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.newest import run_or_newest
from plait.progress import say


def watch(
    named: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, or folders of runs; by default the newest in runs/.", metavar="[RUN]..."),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Address and port of the page, of this machine alone.")
    ] = "127.0.0.1:9443",
) -> None:
    """Show runs on a live page in the browser: clients, losses, bytes, refusals; several runs side by side.

    The page reads the ledgers and changes nothing. Open the printed address, whose token lets you in; from another
    machine, through an SSH tunnel.

    Example: plait watch runs/first
    """
    from plait.features.page.app import Page
    from plait.features.page.beside import page_address, shown_address
    from plait.features.page.catalogue import Catalogue
    from plait.features.page.server import serve
    from plait.features.page.token import page_token

    runs = named or [run_or_newest(None)]
    address, token = page_address(listen, what="--listen"), page_token()
    catalogue = Catalogue(runs)
    with address.bind() as listener:
        listener.listen()
        say(f"showing {', '.join(map(str, runs))} on {shown_address(listener, token)}", quiet=False)
        serve(Page(catalogue, token=token), listener)
    say("stopped", quiet=False)

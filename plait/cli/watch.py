"""``plait watch``: a live page of runs, running or finished, on this machine. Ctrl-C ends it with exit code 0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.address import Address
from plait.progress import say


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs.", metavar="RUN...")],
    listen: Annotated[str, typer.Option("--listen", help="Address and port of the page.")] = "127.0.0.1:9443",
    allowed_hosts: Annotated[
        str,
        typer.Option(
            "--allowed-hosts",
            help="More host names that requests may address, separated by commas.",
            metavar="NAME,NAME",
        ),
    ] = "",
) -> None:
    """Show runs on a live page in the browser: clients, losses, bytes, refusals; several runs side by side.

    The page reads the ledgers and changes nothing. It is served to this machine only.

    Example: plait watch runs/first
    """
    from plait.hosts import AllowedHosts
    from plait.page.app import Page
    from plait.page.beside import loopback_address
    from plait.page.catalogue import Catalogue
    from plait.page.server import serve

    address = loopback_address(listen, what="--listen")
    catalogue = Catalogue(runs)
    with address.bind() as listener:
        listener.listen()
        shown = Address(*listener.getsockname()[:2])
        say(f"showing {', '.join(map(str, runs))} on http://{shown}", quiet=False)
        serve(Page(catalogue, AllowedHosts.of(address.host, allowed_hosts.split(","))), listener)
    say("stopped", quiet=False)

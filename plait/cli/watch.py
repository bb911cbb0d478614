"""``plait watch``: a live page of runs, running or finished. Ctrl-C ends it with exit code 0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.address import Address
from plait.progress import say


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs.", metavar="RUN...")],
    listen: Annotated[str, typer.Option("--listen", help="Address and port of the page.")] = "127.0.0.1:9443",
    kit: Annotated[
        Path | None,
        typer.Option(
            "--kit", help="The server's kit, for an address that other machines reach: the page then asks who visits."
        ),
    ] = None,
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

    The page reads the ledgers and changes nothing. It is served to this machine only, or with --kit to operators and
    observers of the federation.

    Example: plait watch runs/first
    """
    from plait.hosts import AllowedHosts
    from plait.page.beside import page_address, serve_page, shown_address
    from plait.page.catalogue import Catalogue

    address, has_door = page_address(listen, what="--listen", kit=kit)
    catalogue = Catalogue(runs)
    with address.bind() as listener:
        listener.listen()
        shown = shown_address(Address(*listener.getsockname()[:2]), has_door=has_door)
        say(f"showing {', '.join(map(str, runs))} on {shown}", quiet=False)
        hosts = AllowedHosts.of(address.host, allowed_hosts.split(","))
        serve_page(catalogue, listener, hosts, kit=kit if has_door else None)
    say("stopped", quiet=False)

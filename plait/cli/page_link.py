"""``plait page-link``: a link to a live page, for one use, for a browser that has no certificate."""

from __future__ import annotations

from typing import Annotated

import typer

from plait.address import Address
from plait.cli.operating import JsonOutput, Kit
from plait.cli.output import print_json
from plait.errors import ConfigError


def page_link(
    page: Annotated[
        str, typer.Option("--page", help="Address and port of the page, under a name of the server's certificate.")
    ] = "localhost:9443",
    kit: Kit = None,
    role: Annotated[
        str, typer.Option("--role", help="What whoever opens it may do: observer looks, operator also cancels runs.")
    ] = "observer",
    minutes: Annotated[float, typer.Option("--minutes", help="How long the link is good.", min=0.1, max=60)] = 5.0,
    json_output: JsonOutput = False,
) -> None:
    """Make a link to a live page that asks who visits: good for some minutes and one use, which lasts 8 hours.

    The server's journal says who made it, and whatever is done there is done in that name.

    Example: plait page-link --page fed.example.org:9443 --kit olga
    """
    from plait.page.asking import ask_for_link
    from plait.trust import StaffKit
    from plait.trust.roles import STAFF

    if kit is None:
        raise ConfigError("--kit is missing, expected an operator's or observer's; a page on loopback needs no link")
    if role not in STAFF:
        raise ConfigError(f"--role is {role[:40]!a}, expected {' or '.join(STAFF)}")
    address = Address.parse(page.removeprefix("https://").rstrip("/"), what="--page")
    link = ask_for_link(address, StaffKit.load(kit), role=role, minutes=minutes)
    if json_output:
        print_json({"link": link, "role": role, "minutes": minutes})
    else:
        typer.echo(link)

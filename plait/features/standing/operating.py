"""What the verbs of operators share: the server to ask, and the kit to ask with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plait.features.standing.calls import OperatorCalls

Server = Annotated[str, typer.Option("--server", help="Address and port of the server.")]
Kit = Annotated[
    Path | None, typer.Option("--kit", help="An operator's or observer's kit; not needed for an --insecure server.")
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def calls_to(server: str, kit: Path | None) -> OperatorCalls:
    """The calls of the kit's holder.

    Raises:
        ConfigError: the address or the kit is not valid.
    """
    from plait.address import Address
    from plait.features.standing.calls import OperatorCalls
    from plait.trust.kit import StaffKit

    return OperatorCalls(Address.parse(server, what="server"), None if kit is None else StaffKit.load(kit))

"""``plait evidence --attest``: a client's own statement of what it agreed to and what left it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_text
from plait.report.progress import status


def attest(
    kit: Annotated[Path, typer.Option("--kit", help="This client's start-up kit, whose node key signs.")],
    run: Annotated[
        str, typer.Argument(help="Id of the run, or its beginning; not needed where the client took part in one.")
    ] = "",
    state: Annotated[
        Path | None, typer.Option("--state", help="Directory of the node's state; by default in your home directory.")
    ] = None,
    about_data: Annotated[
        str, typer.Option("--about-data", help="What you, their owner, say of the data: source, licence, legal basis.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; by default NAME-RUN.statement.json.")
    ] = None,
) -> None:
    """State what this client agreed to in a run and what left it, signed by its own key, for `plait evidence`.

    Example: plait evidence --attest --kit kit/clients/alice
    """
    from client.sent import attested
    from client.settings import default_state_directory
    from plait.system.files import at_home, write_atomically
    from plait.trust.kit import ClientKit

    loaded = ClientKit.load(kit)
    place = at_home(state) if state else default_state_directory()
    with status("collecting what left this client", quiet=False):
        run_id, data = attested(loaded, place.absolute(), run=run, about_data=about_data)
    path = out or Path(f"{loaded.name}-{run_id[:16]}.statement.json")
    write_atomically(path, data, exported=True)
    print_text(
        f"'{path}' states what '{loaded.name}' sent for run {run_id[:16]}; send it to the person who makes the evidence"
    )

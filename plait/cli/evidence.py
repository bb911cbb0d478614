"""``plait evidence``: one signed file about a finished run, for those who must sign it off.

``--attest`` makes a client's own statement of what it agreed to and what left it, for that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_text
from plait.progress import status


def evidence(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; by default RUN.evidence.json.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page to read.")] = None,
    kit: Annotated[
        Path | None,
        typer.Option(
            "--kit", help="The server's start-up kit, whose key signs; otherwise a key of the run's own does."
        ),
    ] = None,
    statement: Annotated[
        list[Path] | None,
        typer.Option("--statement", help="A client's own statement, from `plait evidence --attest`; may be repeated."),
    ] = None,
    base_licence: Annotated[str, typer.Option("--base-licence", help="The base's licence, such as Apache-2.0.")] = "",
) -> None:
    """Write a signed bundle about a finished run, which docs/evidence/verify.py checks without plait.

    Example: plait evidence runs/first --kit kit/server --statement alice.statement.json
    """
    from plait.evidence.bundle import bundle_of
    from plait.evidence.envelope import Signer
    from plait.evidence.page import page_of
    from plait.files import write_atomically
    from plait.rounds.run_directory import RunDirectory

    directory = RunDirectory.find(run)
    signer = Signer.of_run(directory, kit)
    with status("collecting the evidence", quiet=False):
        says, data = bundle_of(directory, signer, statements=statement or (), base_licence=base_licence)
    path = out or Path(f"{directory.path.resolve()}.evidence.json")
    write_atomically(path, data, exported=True)
    if html:
        write_atomically(html, page_of(says).encode(), exported=True)
    own = "a key of the run's own, which identifies no one: give --kit to sign with the server's"
    who = "the server's key" if kit else own
    print_text(f"'{path}' has {len(data):,} bytes, signed with {who}")


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
    from plait.evidence.sent import attested
    from plait.files import at_home, write_atomically
    from plait.places import at
    from plait.trust.kit import ClientKit

    loaded = ClientKit.load(kit)
    place = at_home(state) if state else at("client.settings:default_state_directory")()
    with status("collecting what left this client", quiet=False):
        run_id, data = attested(loaded, place.absolute(), run=run, about_data=about_data)
    path = out or Path(f"{loaded.name}-{run_id[:16]}.statement.json")
    write_atomically(path, data, exported=True)
    print_text(
        f"'{path}' states what '{loaded.name}' sent for run {run_id[:16]}; send it to the person who makes the evidence"
    )

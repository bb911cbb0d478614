"""``plait evidence``: one signed file about a finished run, for those who must sign it off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_text
from plait.evidence.bundle import bundle_of, page_of
from plait.evidence.envelope import Signer
from plait.report.progress import status
from plait.rounds.run_directory import RunDirectory
from plait.system.files import write_atomically


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

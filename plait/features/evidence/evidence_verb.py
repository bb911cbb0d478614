"""``plait evidence``: one signed file about a finished run, for those who must sign it off."""

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
    parts: Annotated[
        Path | None,
        typer.Option("--parts", help="Directory to write model.sig and bom.cdx.json to, for other tools."),
    ] = None,
) -> None:
    """Write a signed bundle about a finished run, which docs/evidence/verify.py checks without plait.

    Example: plait evidence runs/first --kit kit/server --statement alice.statement.json
    """
    import json

    from plait.errors import ConfigError
    from plait.features.evidence.bundle import bundle_of
    from plait.features.evidence.page import page_of
    from plait.features.evidence.parts import HOW_TO_INSTALL
    from plait.features.evidence.signing import Signing
    from plait.files import write_atomically
    from plait.rounds.run_directory import RunDirectory

    directory = RunDirectory.find(run)
    signing = Signing.of(directory, kit)
    with status("collecting the evidence", quiet=False):
        made = bundle_of(directory, signing, statements=statement or (), base_licence=base_licence)
    if parts and not made.complete:
        raise ConfigError(f"--parts needs libraries that are not installed: {HOW_TO_INSTALL}")
    path = out or Path(f"{directory.path.resolve()}.evidence.json")
    write_atomically(path, made.data)
    if parts:
        parts.mkdir(parents=True, exist_ok=True)
        for name, part in (("model.sig", "model_signature"), ("bom.cdx.json", "bill_of_materials")):
            write_atomically(parts / name, json.dumps(made.predicate[part], indent=1).encode())
    if html:
        write_atomically(html, page_of(made.predicate).encode())
    own = "a key of the run's own, which identifies no one: give --kit to sign with the server's"
    who = "the server's key" if kit else own
    print_text(f"'{path}' has {len(made.data):,} bytes, signed with {who}")
    if not made.complete:
        print_text(f"without model signature and bill of materials, whose libraries are missing: {HOW_TO_INSTALL}")

"""``plait restore``: a federation from the archive that `plait backup` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.operating import JsonOutput
from plait.cli.output import print_json


def restore(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="From `plait backup`.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    private_too: Annotated[
        bool,
        typer.Option(
            "--private-too",
            help="Go on with a run with --dp client: only if the server that was backed up ended with the backup.",
        ),
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Restore a federation; `plait server --stay --out DIR` goes on there.

    Digests and chains are checked before the directory appears. The run in progress goes on after the round of its
    newest checkpoint; what was done later is done again.

    Example: plait restore federation-monday.tar.gz federation
    """
    from plait.queue import restore as unpack

    told = unpack(archive, directory, private_too=private_too)
    if json_output:
        print_json({**told.__dict__, "directory": str(directory)})
        return
    typer.echo(f"{directory}: {told.runs} runs, {told.files} files; every chain is intact")
    if told.cancelled:
        typer.echo(f"run {told.running} was cancelled: its noise could be released twice (--private-too goes on)")
    elif told.running:
        typer.echo(f"run {told.running} goes on after round {told.round}; later rounds are done again")

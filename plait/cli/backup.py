"""``plait backup``: an archive of a federation, which may be served meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.operating import JsonOutput
from plait.cli.output import print_json


def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The federation: --out of `plait server --stay`.")],
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, .tar or .tar.gz.")],
    json_output: JsonOutput = False,
) -> None:
    """Back up queue, ledgers, checkpoints and results of a federation, also while it is served; not the server's kit.

    The archive holds what is secret in the runs, such as keys of noise, and is readable by its owner alone.

    Example: plait backup federation federation-monday.tar.gz
    """
    from plait.queue import back_up

    told = back_up(directory, archive)
    if json_output:
        print_json({**told.__dict__, "archive": str(archive)})
        return
    goes_on = f"; run {told.running} goes on after round {told.round}" if told.running else ""
    typer.echo(f"{archive}: {told.runs} runs, {told.files} files, {told.size_bytes:,} bytes{goes_on}")

"""``plait track``: send a run to trackers as a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def track(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    to: Annotated[
        str, typer.Option("--to", help="The trackers: tensorboard, wandb, mlflow, trackio, or your own, with commas.")
    ],
) -> None:
    """Send a run, finished or not, to trackers.

    Example: plait track runs/first --to tensorboard
    """
    from plait.features.trackers.followers import send
    from plait.report.write import write_report
    from plait.rounds.run_directory import RunDirectory

    write_report(RunDirectory.find(run).path)
    send(run, to)

"""``plait server --stay``: a federation over gRPC that serves run after run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait import machine
from plait.api.serving import Serving
from plait.cli.options import PageAddress
from plait.cli.page import check_page, page_beside
from plait.cli.serving import (
    GraceS,
    Insecure,
    Kit,
    Listen,
    Metrics,
    log_to,
    stop_on_signals,
)
from plait.features.standing.limits import GIVE_UP_S, RunLimits
from plait.features.standing.standing import Standing
from plait.progress import say


def server(
    listen: Listen = "127.0.0.1:9440",
    kit: Kit = None,
    insecure: Insecure = False,
    out: Annotated[Path, typer.Option("--out", help="Directory of the journal and of all runs.")] = Path("federation"),
    metrics: Metrics = "",
    grace_s: GraceS = 30.0,
    give_up_s: Annotated[
        float,
        typer.Option(
            "--give-up-s", help="Seconds until plait ends a run whose connected clients cannot take part.", min=0.1
        ),
    ] = GIVE_UP_S,
    keep_runs: Annotated[
        int | None,
        typer.Option(
            "--keep-runs",
            help="Keep received updates and older checkpoints only for so many of the newest runs; results stay.",
            min=0,
        ),
    ] = None,
    run_quota_gb: Annotated[
        float | None,
        typer.Option(
            "--run-quota-gb", help="Disk space that a run may have; one that needs more is refused or ends.", min=0.0
        ),
    ] = None,
    page: PageAddress = "",
) -> None:
    """Stay between runs; operators submit them, with their settings, by `plait submit`.

    To continue after a stop or a crash, give the same command again.

    Example: plait server --stay --kit fed/server --listen 0.0.0.0:9440 --out federation
    """
    check_page(page)
    limits = RunLimits(
        give_up_s=give_up_s,
        keep_runs=keep_runs,
        run_quota_bytes=None if run_quota_gb is None else int(run_quota_gb * 1e9),
    )
    serving = Serving.of({"listen": listen, "kit": kit, "insecure": insecure, "metrics": metrics, "grace_s": grace_s})
    machine.share_memory_between_threads()
    standing = Standing(out, serving, limits=limits)
    log_to(out / "server.log")
    stop_on_signals("the same command")
    with page_beside(out, page, folder=True, status_json=standing.status_json):
        standing.serve(
            on_start=lambda address: say(f"serving on {address}; runs come from `plait submit`", quiet=False)
        )

"""``plait eval --on``: what an adapter has forgotten of earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.evaluate import Adapter, Device, Dtype, JsonOutput
from plait.cli.options import Allow
from plait.cli.output import print_json, print_tables
from plait.report.table import Table
from plait.report.wording import change_text, within_text


def evaluate(
    adapter: Adapter,
    earlier: Annotated[
        list[Path],
        typer.Option(
            "--on",
            metavar="RUN",
            help="An earlier simulated run, on whose clients' held-out data the adapter is measured; may be repeated.",
        ),
    ],
    allow: Allow = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json_output: JsonOutput = False,
) -> None:
    """Measure what an adapter has forgotten of earlier runs, on the held-out data of their clients.

    Example: plait eval --adapter runs/second --on runs/first
    """
    from plait.features.forgetting.forgetting import forgetting

    found = forgetting(adapter, earlier, allowed=allow or [], device=device, dtype=dtype, quiet=json_output)
    if json_output:
        print_json({each.run: each.figures for each in found})
        return
    table = Table(
        title="On the held-out data of earlier runs",
        headings=("run", "base", "its own adapter", "this adapter", "forgotten"),
        rows=tuple(
            (
                each.run,
                *(f"{score.loss:.3f}" for score in (each.base, each.then, each.now)),
                ""
                if each.now.change is None
                else within_text(change_text(each.now.change, 0.0), each.now.change_margin),
            )
            for each in found
        ),
        note="Mean losses over all clients; the last column is this adapter's loss minus the earlier run's, by "
        "sequence, with a 95 % interval: above zero, the adapter has forgotten.",
    )
    print_tables([table])

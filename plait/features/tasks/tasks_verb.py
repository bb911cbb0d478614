"""``plait eval --tasks``: a base, its adapter and clients' own ones in tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from plait.cli.evaluate import BATCH_SIZE, Adapter, Base, BatchSize, Device, Dtype, JsonOutput
from plait.cli.output import print_json, print_tables
from plait.report.table import Table


def evaluate(
    adapter: Adapter,
    tasks: Annotated[
        list[str],
        typer.Option(
            "--tasks",
            metavar="TASK",
            help="Task files (YAML) or names, separated by commas; may be repeated. Needs the extra plait[eval].",
        ),
    ],
    clients: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            metavar="NAME",
            help="Also this client's own adapter, of a simulated run that has them; may be repeated.",
        ),
    ] = None,
    fewshot: Annotated[
        int | None,
        typer.Option("--num-fewshot", min=0, help="Examples before each question; by default the task's own."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most questions of a task.")] = None,
    base: Base = "",
    batch_size: BatchSize = BATCH_SIZE,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json_output: JsonOutput = False,
) -> None:
    """Evaluate a base with and without an adapter in tasks of lm-evaluation-harness.

    Example: plait eval --adapter runs/first --tasks arc_easy,boolq
    """
    from plait.features.tasks.tasks import evaluate_tasks

    found = evaluate_tasks(
        adapter,
        [name.strip() for each in tasks for name in each.split(",") if name.strip()],
        clients=clients or (),
        base=base or None,
        fewshot=fewshot,
        limit=limit,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        quiet=json_output,
    )
    if json_output:
        print_json(found.scores)
        return
    first = next(iter(found.scores.values()))
    rows = [
        (task, metric, *(_score(scores[task], metric) for scores in found.scores.values()))
        for task, metrics in first.items()
        for metric in metrics
        if metric != "samples" and not metric.partition(",")[0].endswith("_stderr")
    ]
    note = "Figures of lm-evaluation-harness, ± their standard errors."
    print_tables([Table(f"{found.base_name} in tasks", ("task", "metric", *found.scores), tuple(rows), note)])


def _score(metrics: Mapping[str, object], metric: str) -> str:
    name, comma, chosen = metric.partition(",")
    value, error = metrics[metric], metrics.get(f"{name}_stderr{comma}{chosen}")
    return f"{value:.4f}" if not isinstance(error, float) else f"{value:.4f} ± {error:.4f}"

"""``plait eval``: loss, perplexity, accuracy or rewards of a base with and without an adapter, or figures in tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.options import Allow
from plait.cli.output import print_json, print_tables
from plait.errors import ConfigError

if TYPE_CHECKING:
    from plait.rounds.evaluation import ClientLoss

_SEQ_LEN, _BATCH_SIZE, _MAX_SEQUENCES = 128, 4, 64


def evaluate(
    adapter: Annotated[Path, typer.Option("--adapter", help="PEFT directory, or a run directory.")],
    data: Annotated[str, typer.Option("--data", help="Data, as in plait simulate.")] = "",
    on: Annotated[
        list[Path] | None,
        typer.Option(
            "--on",
            metavar="RUN",
            help="Instead of --data: the held-out data of an earlier simulated run's clients, to measure what was "
            "forgotten; may be repeated.",
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="TASK",
            help="Instead of --data: tasks of lm-evaluation-harness, as task files (YAML) or by name, separated by "
            "commas; may be repeated. Needs the extra plait[eval].",
        ),
    ] = None,
    clients: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            metavar="NAME",
            help="With --tasks: also this client's own adapter, of a simulated run that has them; may be repeated.",
        ),
    ] = None,
    fewshot: Annotated[
        int | None,
        typer.Option(
            "--num-fewshot", min=0, help="With --tasks: examples before each question; by default the task's own."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="With --tasks: most questions of a task; by default all.")
    ] = None,
    allow: Allow = None,
    columns: Annotated[
        str, typer.Option("--columns", help="Columns that have other names, such as text=body; see plait simulate.")
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="Split to evaluate on; by default validation or test, if there is one.")
    ] = "",
    base: Annotated[str, typer.Option("--base", help="Base, if the adapter names none that is available.")] = "",
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            help="Objective by whose loss and rewards preferences are measured; by default the run's, else dpo for "
            "pairs and kto for verdicts.",
        ),
    ] = "",
    seq_len: Annotated[int, typer.Option("--seq-len", min=8, help="Tokens per sequence.")] = _SEQ_LEN,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences per batch.")] = _BATCH_SIZE,
    max_sequences: Annotated[
        int, typer.Option("--max-sequences", min=1, help="Most sequences to evaluate, spread evenly over the data.")
    ] = _MAX_SEQUENCES,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate a base with and without an adapter, by tasks too, or an adapter on what earlier runs learned.

    Example: plait eval --adapter runs/first/adapter --data my.jsonl
    """
    given = [option for option, value in (("--data", data), ("--on", on), ("--tasks", tasks)) if value]
    if len(given) != 1:
        has = f"both {given[0]} and {given[1]}" if given else "no data"
        raise ConfigError(f"plait eval has {has}, expected one of --data, --on, --tasks")
    of_data = {
        "--columns": columns,
        "--split": split,
        "--objective": objective,
        "--seq-len": seq_len != _SEQ_LEN,
        "--max-sequences": max_sequences != _MAX_SEQUENCES,
    }
    if tasks:
        _check_unused(of_data, "--tasks", "a task says what it needs")
        scores = _TaskOptions(clients or [], base, fewshot, limit, batch_size, device, dtype)
        _show_tasks(adapter, tasks, scores, json_output=json_output)
        return
    if allow and not on:
        raise ConfigError("--allow is given without --on, expected both: it is for what an earlier run's settings name")
    of_tasks = {"--client": clients, "--num-fewshot": fewshot is not None, "--limit": limit is not None}
    if on:
        unused = {**of_data, **of_tasks, "--base": base, "--batch-size": batch_size != _BATCH_SIZE}
        _check_unused(unused, "--on", "the earlier run's settings say it")
        _show_forgetting(adapter, on, allow or [], device=device, dtype=dtype, json_output=json_output)
        return
    _check_unused(of_tasks, "--data", "it belongs to --tasks")
    from plait.api.evaluate import evaluate as evaluated

    found = evaluated(
        adapter,
        data,
        columns=columns,
        split=split,
        base=base or None,
        objective=objective,
        seq_len=seq_len,
        batch_size=batch_size,
        max_sequences=max_sequences,
        device=device,
        dtype=dtype,
        quiet=json_output,
    )
    if json_output:
        print_json(found.figures)
        return
    from plait.report.table import Table

    last = ("perplexity",) if found.base.correct is None else ("accuracy",)
    if found.base.reward_margin is not None:
        last = ("reward accuracy", "margin")
    what = "sequences" if found.base.reward_margin is None else f"preferences ({found.objective})"
    table = Table(
        title=f"{found.base_name} on {found.data}, {found.base.examples} {what}",
        headings=("", "loss", "change", *last),
        rows=(("base", *_cells(found.base)), ("adapter", *_cells(found.adapter))),
        note="± and brackets are 95 % intervals; the change is compared sequence by sequence.",
    )
    print_tables([table])


def _check_unused(given: Mapping[str, object], beside: str, reason: str) -> None:
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(f"{option} is given with {beside}, expected without: {reason}")


@dataclass(frozen=True)
class _TaskOptions:
    """The options of `--tasks`."""

    clients: list[str]
    base: str
    fewshot: int | None
    limit: int | None
    batch_size: int
    device: str
    dtype: str


def _show_tasks(adapter: Path, tasks: list[str], options: _TaskOptions, *, json_output: bool) -> None:
    from plait.api.tasks import evaluate_tasks

    found = evaluate_tasks(
        adapter,
        [name.strip() for each in tasks for name in each.split(",") if name.strip()],
        clients=options.clients,
        base=options.base or None,
        fewshot=options.fewshot,
        limit=options.limit,
        batch_size=options.batch_size,
        device=options.device,
        dtype=options.dtype,
        quiet=json_output,
    )
    if json_output:
        print_json(found.scores)
        return
    from plait.report.table import Table

    first = next(iter(found.scores.values()))
    rows = [
        (task, metric, *(_score(scores[task], metric) for scores in found.scores.values()))
        for task, metrics in first.items()
        for metric in metrics
        if metric != "samples" and not metric.partition(",")[0].endswith("_stderr")
    ]
    table = Table(
        title=f"{found.base_name} in tasks",
        headings=("task", "metric", *found.scores),
        rows=tuple(rows),
        note="Figures of lm-evaluation-harness, ± their standard errors.",
    )
    print_tables([table])


def _score(metrics: Mapping[str, object], metric: str) -> str:
    name, comma, chosen = metric.partition(",")
    value, error = metrics[metric], metrics.get(f"{name}_stderr{comma}{chosen}")
    return f"{value:.4f}" if not isinstance(error, float) else f"{value:.4f} ± {error:.4f}"


def _show_forgetting(
    adapter: Path, earlier: list[Path], allowed: list[str], *, device: str, dtype: str, json_output: bool
) -> None:
    from plait.api.forgetting import forgetting

    found = forgetting(adapter, earlier, allowed=allowed, device=device, dtype=dtype, quiet=json_output)
    if json_output:
        print_json({each.run: each.figures for each in found})
        return
    from plait.report.table import Table
    from plait.report.wording import change_text, within_text

    table = Table(
        title="On the held-out data of earlier runs",
        headings=("run", "base", "its own adapter", "this adapter", "forgotten"),
        rows=tuple(
            (
                each.run,
                f"{each.base.loss:.3f}",
                f"{each.then.loss:.3f}",
                f"{each.now.loss:.3f}",
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


def _cells(row: ClientLoss) -> tuple[str, ...]:
    from plait.report.wording import accuracy_text, change_text, reward_text, within_text
    from plait.rounds.evaluation import wilson

    change = "" if row.change is None else within_text(change_text(row.change, 0.0), row.change_margin)
    if row.correct is None:
        last = (f"{math.exp(row.loss):.2f}",)
    else:
        last = (accuracy_text(row.correct / row.examples, wilson(row.correct, row.examples)),)
    if row.reward_margin is not None:
        last = (*last, reward_text(row.reward_margin))
    return within_text(f"{row.loss:.3f}", row.margin), change, *last

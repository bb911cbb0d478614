"""``plait eval``: loss, perplexity, accuracy or rewards of a base with and without an adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.api.evaluate import evaluate as evaluated
from plait.cli.output import print_json, print_tables
from plait.report.table import Table
from plait.report.wording import accuracy_text, change_text, reward_text, within_text
from plait.rounds.evaluation import wilson

if TYPE_CHECKING:
    from plait.api.evaluate import EvaluationResult
    from plait.rounds.evaluation import ClientLoss


def evaluate(
    adapter: Annotated[Path, typer.Option("--adapter", help="PEFT directory, or a run directory.")],
    data: Annotated[str, typer.Option("--data", help="Data, as in plait simulate.")],
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
            help="Objective by whose loss and rewards preferences are measured; by default the run's, else dpo.",
        ),
    ] = "",
    seq_len: Annotated[int, typer.Option("--seq-len", min=8, help="Tokens per sequence.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences per batch.")] = 4,
    max_sequences: Annotated[
        int, typer.Option("--max-sequences", min=1, help="Most sequences to evaluate, spread evenly over the data.")
    ] = 64,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate a base with and without an adapter.

    Example: plait eval --adapter runs/first/adapter --data my.jsonl
    """
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
    else:
        print_tables([_table(found)])


def _table(found: EvaluationResult) -> Table:
    last = ("perplexity",) if found.base.correct is None else ("accuracy",)
    if found.base.reward_margin is not None:
        last = ("reward accuracy", "margin")
    what = "sequences" if found.base.reward_margin is None else f"preferences ({found.objective})"
    return Table(
        title=f"{found.base_name} on {found.data}, {found.base.examples} {what}",
        headings=("", "loss", "change", *last),
        rows=(("base", *_cells(found.base)), ("adapter", *_cells(found.adapter))),
        note="± and brackets are 95 % intervals; the change is compared sequence by sequence.",
    )


def _cells(row: ClientLoss) -> tuple[str, ...]:
    change = "" if row.change is None else within_text(change_text(row.change, 0.0), row.change_margin)
    if row.correct is None:
        last = (f"{math.exp(row.loss):.2f}",)
    else:
        last = (accuracy_text(row.correct / row.examples, wilson(row.correct, row.examples)),)
    if row.reward_margin is not None:
        last = (*last, reward_text(row.reward_margin))
    return within_text(f"{row.loss:.3f}", row.margin), change, *last

"""``plait eval``: held-out loss, perplexity, accuracy or rewards of a base with and without an adapter, on any data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.output import print_json
from plait.errors import ConfigError
from plait.plugins import admit
from plait.progress import say, status

if TYPE_CHECKING:
    from plait.adapters import Json
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
            help="Objective by whose loss and rewards preferences are measured; by default the run's, else dpo for "
            "pairs and kto for verdicts.",
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
    chosen = objective or _objective_of(adapter)
    if (adapter / "adapter").is_dir():
        adapter = adapter / "adapter"
    from plait.adapters import load_peft_directory
    from plait.data import RecordKind, as_dataset

    loaded = load_peft_directory(adapter)
    with status("loading libraries", quiet=json_output):
        from plait.training.bases import locate_base, quiet_libraries
        from plait.training.device import choose_compute
        from plait.training.evaluate import evaluate_adapter

    quiet_libraries()
    compute = choose_compute(device, dtype)
    admit(data)
    dataset = as_dataset(data, columns=columns, split=split, progress=lambda text: say(text, quiet=json_output))
    if not chosen:
        chosen = {RecordKind.PREFERENCE: "dpo", RecordKind.FEEDBACK: "kto"}.get(dataset.kind, "sft")
    name = base or loaded.base_here
    if not name:
        raise ConfigError(f"adapter '{adapter}' names no base, expected --base NAME or DIRECTORY")
    located = locate_base(name, revision=loaded.revision or "", progress=lambda text: say(text, quiet=json_output))
    with status(f"evaluating on {dataset.name}", quiet=json_output):
        result = evaluate_adapter(
            located,
            loaded,
            dataset,
            compute=compute,
            seq_len=seq_len,
            batch_size=batch_size,
            max_sequences=max_sequences,
            objective=chosen,
        )
    rows = {"base": result.base, "adapter": result.adapter}
    if json_output:
        print_json({name: _figures(row) for name, row in rows.items()})
        return
    from plait.report import Table, to_rich

    last = ("perplexity",) if result.base.correct is None else ("accuracy",)
    if result.base.reward_margin is not None:
        last = ("reward accuracy", "margin")
    what = "sequences" if result.base.reward_margin is None else f"preferences ({chosen})"
    table = Table(
        title=f"{name} on {dataset.name}, {result.base.examples} {what}",
        headings=("", "loss", "change", *last),
        rows=tuple((title, *_cells(row)) for title, row in rows.items()),
        note="± and brackets are 95 % intervals; the change is compared sequence by sequence.",
    )
    from rich.console import Console

    Console().print(to_rich(table))


def _figures(row: ClientLoss) -> dict[str, Json]:
    """For scripts; unknown figures are left out."""
    from plait.rounds.evaluation import wilson

    figures: dict[str, Json] = {
        "loss": row.loss,
        "tokens": row.tokens,
        "sequences": row.examples,
    }
    if row.margin is not None:
        figures["loss_interval"] = [row.loss - row.margin, row.loss + row.margin]
    if row.change is not None:
        figures["change"] = row.change
        if row.change_margin is not None:
            figures["change_interval"] = [row.change - row.change_margin, row.change + row.change_margin]
    if row.reward_margin is not None:
        figures["reward_margin"] = row.reward_margin
    else:
        figures["perplexity"] = math.exp(row.loss)
    if row.correct is not None:
        name = "accuracy" if row.reward_margin is None else "reward_accuracy"
        figures[name] = row.correct / row.examples
        figures[f"{name}_interval"] = list(wilson(row.correct, row.examples))
    return figures


def _objective_of(adapter: Path) -> str:
    """The objective of the run in a directory; empty if there is no run."""
    from plait.config import config_from_table, read_config_table

    settings = adapter / "config.toml"
    return config_from_table(read_config_table(settings), where=f"'{settings}'").objective if settings.is_file() else ""


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

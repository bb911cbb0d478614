"""``plait eval``: held-out loss, perplexity and accuracy of a base with and without an adapter, on any data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json
from plait.cli.progress import say, status
from plait.errors import ConfigError


def evaluate(
    adapter: Annotated[Path, typer.Option("--adapter", help="PEFT directory, or a run directory.")],
    data: Annotated[str, typer.Option("--data", help="JSONL file or built-in name.")],
    base: Annotated[str, typer.Option("--base", help="Base, where the adapter does not name one at hand.")] = "",
    seq_len: Annotated[int, typer.Option("--seq-len", min=8, help="Tokens of one sequence.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences at a time.")] = 4,
    max_sequences: Annotated[
        int, typer.Option("--max-sequences", min=1, help="Sequences taken, spread evenly over the data.")
    ] = 64,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare a base with and without an adapter on some data.

    Example: plait eval --adapter runs/first/adapter --data my.jsonl
    """
    if (adapter / "adapter").is_dir():
        adapter = adapter / "adapter"
    from plait.adapters import load_peft_directory
    from plait.data import cache_directory, load_dataset

    loaded = load_peft_directory(adapter)
    with status("loading libraries", quiet=json_output):
        from plait.training.bases import locate_base, quiet_libraries
        from plait.training.device import choose_compute
        from plait.training.evaluate import evaluate_adapter

    quiet_libraries()
    compute = choose_compute(device, dtype)
    dataset = load_dataset(data, cache=cache_directory(), progress=lambda text: say(text, quiet=json_output))
    name = base or loaded.base_name
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
        )
    rows = {"base": result.base, "adapter": result.adapter}
    if json_output:
        print_json(
            {
                name: {
                    "loss": row.loss,
                    "perplexity": math.exp(row.loss),
                    "tokens": row.counted,
                    **({} if row.correct is None else {"accuracy": row.correct / row.examples}),
                }
                for name, row in rows.items()
            }
        )
        return
    from plait.report import Table, to_rich

    by_label = result.base.correct is not None
    table = Table(
        title=f"{name} on {dataset.name}, {result.base.examples} sequences",
        headings=("", "loss", "accuracy" if by_label else "perplexity"),
        rows=tuple(
            (
                title,
                f"{row.loss:.4f}",
                f"{math.exp(row.loss):.2f}" if row.correct is None else f"{row.correct / row.examples:.3f}",
            )
            for title, row in rows.items()
        ),
    )
    from rich.console import Console

    Console().print(to_rich(table))

"""``plait bench``: how good plait is at what it does, in numbers, beside what others do."""

from __future__ import annotations

import json
from typing import Annotated

import typer

bench = typer.Typer(
    name="bench",
    help="Measure plait on this machine, beside what others do.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@bench.callback()
def _root() -> None: ...


@bench.command()
def wire(
    base: Annotated[
        str, typer.Option("--base", help="Base whose deltas are measured: a name or a directory.")
    ] = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="Smaller samples, fewer repetitions.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of samples and training.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Measure the codecs of the wire on random samples and on real deltas: bytes, error, distance to the bound, speed.

    Example: plait bench wire --base smollm2-135m
    """
    from itertools import chain

    from plait.bench.deltas import samples, trained
    from plait.bench.wire import compare
    from plait.cli.progress import status

    sources = chain(samples(1 << (16 if quick else 20), seed=seed), trained(base, seed=seed))
    for source, delta in sources:
        with status(f"packing {source}", quiet=json_output):
            comparison = compare(source, delta, repetitions=2 if quick else 5)
        if json_output:
            for row in comparison.rows():
                typer.echo(json.dumps(row.to_json()))
            continue
        from rich.console import Console

        from plait.report import to_rich

        Console().print(to_rich(comparison.table()))

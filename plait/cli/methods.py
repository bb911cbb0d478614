"""``plait methods``: every adapter method, what is averaged, how exactly, with which rules, and what is sent."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from plait.cli.output import print_json, print_tables
from plait.plugins import Kind, installed
from plait.report.table import Table


def methods(
    base: Annotated[
        str, typer.Option("--base", help="Base to count parameters of; only its config is read.")
    ] = "smollm2-135m",
    rank: Annotated[int, typer.Option("--rank", min=1, max=4096, help="Rank, for methods that have one.")] = 8,
    virtual_tokens: Annotated[
        int, typer.Option("--virtual-tokens", min=1, max=4096, help="Length of a learned prompt.")
    ] = 20,
    json_output: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the adapter methods: what is averaged and how exactly, which rules apply, what is sent.

    Example: plait methods --base mistral-7b --rank 16
    """
    from plait.progress import status

    with status("designing an adapter of each method", quiet=json_output):
        entries = _entries(base, rank, virtual_tokens)
    if json_output:
        print_json({"base": base, "rank": rank, "virtual_tokens": virtual_tokens, "methods": entries})
        return
    print_tables(_tables(entries, f"{base}, rank {rank}, {virtual_tokens} virtual tokens"))


def _entries(base: str, rank: int, virtual_tokens: int) -> list[dict[str, Any]]:
    from plait.adapters import Task
    from plait.adapters.methods import METHODS, AdapterRequest, method_named
    from plait.aggregation import rules_for
    from plait.errors import ConfigError
    from plait.training.bases import locate_config, quiet_libraries
    from plait.training.blueprint import design, read_base_config

    quiet_libraries()
    config = read_base_config(locate_config(base), Task.CAUSAL_LM)
    entries: list[dict[str, Any]] = []
    own = [method_named(name) for name in sorted(installed(Kind.METHOD)) if name not in METHODS]
    for method in (*METHODS.values(), *own):
        request = AdapterRequest(method=method.name, rank=rank, virtual_tokens=virtual_tokens)
        parameters = refused = None
        try:
            parameters = design(config, request, task=Task.CAUSAL_LM, seed=0).spec.layout.size
        except ConfigError as error:
            refused = str(error)
        entries.append(
            {
                "method": method.name,
                "paper": method.title,
                "peft_type": method.peft_type,
                "averages": method.averages,
                "never_travels": method.kept or None,
                "rules": list(rules_for(method)),
                "options": sorted(option.value for option in method.options),
                "trainable_parameters": parameters,
                "learning_rate": method.learning_rate,
                "refused": refused,
            }
        )
    return entries


def _tables(entries: list[dict[str, Any]], what: str) -> tuple[Table, Table]:
    from plait.aggregation import RULES

    def shortened(rules: list[str]) -> str:
        missing = sorted(RULES.keys() - set(rules))
        return ", ".join(rules) if len(rules) < len(missing) else f"all but {', '.join(missing)}"

    meanings = Table(
        "What each method averages",
        ("method", "averages", "never sent", "paper"),
        tuple((each["method"], each["averages"], each["never_travels"] or "", each["paper"]) for each in entries),
        text_columns=(0, 1, 2, 3),
    )
    costs = Table(
        f"What is sent: {what}",
        ("method", "parameters", "learning rate", "rules", "options"),
        tuple(
            (
                each["method"],
                f"{each['trainable_parameters']:,}" if each["trainable_parameters"] else each["refused"],
                f"{each['learning_rate']:g}",
                shortened(each["rules"]),
                ", ".join(each["options"]),
            )
            for each in entries
        ),
        note="The learning rate is the default with --trainer, a reward or --dp. Otherwise each client finds its own, "
        "and lora_xs starts at 0.25 / rank, or half of that at two bits or less; `--lr-schedule` says how both "
        "continue. "
        "Every parameter is sent once up and once down per round, at the bits per parameter that --wire sets. Every "
        "client derives what is never sent from the base or from a seed.",
        text_columns=(0, 3, 4),
    )
    return meanings, costs

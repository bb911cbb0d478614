"""``plait rules``: every aggregation rule, what it computes, requires and sends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plait.cli.output import print_json, print_tables
from plait.plugins import Kind, installed
from plait.report.table import Table

if TYPE_CHECKING:
    from plait.aggregation import Geometry, Rule
_FP32_BYTES = 4


def rules(
    base: Annotated[
        str, typer.Option("--base", help="Base to count bytes of; only its config is read.")
    ] = "smollm2-135m",
    rank: Annotated[int, typer.Option("--rank", min=1, max=4096, help="Rank of the adapter.")] = 8,
    target_modules: Annotated[
        str, typer.Option("--target-modules", help="all-linear, or names separated by commas.")
    ] = "all-linear",
    json_output: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the aggregation rules: what each computes, its properties, and what a client sends and receives per round.

    Example: plait rules --base mistral-7b --rank 32
    """
    from plait.aggregation import geometry_of, rule_named
    from plait.config import config_from_table
    from plait.flower.rule_table import ALL_RULES
    from plait.progress import status
    from plait.settle import settle

    config = config_from_table({"base": base, "rank": rank, "target-modules": target_modules}, where="command line")
    with status("reading the base's config", quiet=json_output):
        from plait.run import blueprint_of
        from plait.training.bases import locate_config, quiet_libraries

        quiet_libraries()
        geometry = geometry_of(blueprint_of(settle(config), locate_config(base)).spec)
    own = [rule_named(name, ALL_RULES) for name in sorted(installed(Kind.RULE)) if name not in ALL_RULES]
    listed = [*ALL_RULES.values(), *own]
    entries = [_entry(rule, geometry) for rule in listed]
    if json_output:
        of_base = {"base": base, "rank": rank, "adapter_parameters": geometry.layout.size}
        print_json({**of_base, "rules": entries})
        return
    costs = _costs(entries, f"{base}, rank {rank}")
    print_tables([_meanings(entries), _options(listed), costs])


def _entry(rule: Rule, factors: Geometry) -> dict[str, Any]:
    """One rule on one adapter; Fed-SB's is LoRA-XS on the same modules."""
    from plait.adapters import Subject
    from plait.aggregation.means import square_geometry
    from plait.choice import options_of

    geometry = square_geometry(factors) if rule.subject is Subject.SQUARES else factors
    traffic = rule.traffic(geometry)
    return {
        "rule": rule.name,
        "paper": rule.title,
        "computes": rule.computes,
        "works_on": rule.subject.value,
        "exactness": rule.exactness.value,
        "linear": rule.linear,
        "mixed_ranks": rule.mixed_ranks,
        "higher_ranks": rule.higher_ranks,
        "turns_factors": not rule.continuous,
        "needs_all": rule.needs_all,
        "keeps_nearest": rule.keeps_nearest,
        "least_clients": rule.least_clients,
        "personal_side": rule.personal and rule.personal.value,
        "options": [asdict(option) for option in options_of(rule.algorithm)],
        "uplink_parameters": traffic.uplink,
        "downlink_parameters": traffic.downlink,
        "uplink_bytes_fp32": _FP32_BYTES * traffic.uplink,
        "downlink_bytes_fp32": _FP32_BYTES * traffic.downlink,
    }


def _meanings(entries: list[dict[str, Any]]) -> Table:
    return Table(
        "What each rule computes",
        ("rule", "computes", "paper"),
        tuple((entry["rule"], entry["computes"], entry["paper"]) for entry in entries),
        text_columns=(0, 1, 2),
    )


def _options(rules: Iterable[Rule]) -> Table:
    from plait.choice import options_of

    rows = ((rule.name, option) for rule in rules for option in options_of(rule.algorithm))
    return Table(
        "Options, given as --rule trimmed_mean:share=0.1",
        ("option", "default", "sets"),
        tuple((f"{name}:{option.name}", f"{option.default:g}", option.description) for name, option in rows),
        text_columns=(0, 2),
    )


def _costs(entries: list[dict[str, Any]], what: str) -> Table:
    rows = tuple(
        (
            entry["rule"],
            _traits(entry),
            *(f"{entry[way + '_parameters']:,.0f}" for way in ("uplink", "downlink")),
            *(f"{entry[f'{way}_bytes_fp32'] / 1e6:,.2f}" for way in ("uplink", "downlink")),
        )
        for entry in entries
    )
    return Table(
        f"One client's round: {what}",
        ("rule", "is", "up", "down", "MB up", "MB down"),
        rows,
        note="Up and down: parameters, and megabytes as float32 before encoding (see --wire); the mean if rounds "
        "differ. Exact: the product B A is the weighted mean over clients. Linear: works under secure aggregation. "
        "Turns factors: the factors change in every round, and broadcasts have at least 4 bits per parameter. "
        "Needs all: memory grows with the cohort. Keeps nearest: updates far from the others are left out, and "
        "learning rates stay as clients found them.",
        text_columns=(0, 1),
    )


def _traits(entry: dict[str, Any]) -> str:
    traits = [entry["exactness"]]
    traits += [
        name.replace("_", " ")
        for name in ("linear", "mixed_ranks", "turns_factors", "needs_all", "keeps_nearest")
        if entry[name]
    ]
    if entry["personal_side"]:
        traits.append(f"{entry['personal_side']} personal")
    return ", ".join(traits)

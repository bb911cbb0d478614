"""What ``plait simulate --method list`` and ``--rule list`` print: every method and every rule, and what each sends."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from plait.adapters import AdapterTask, Subject
from plait.adapters.method import AdapterRequest
from plait.adapters.methods import METHODS, method_named
from plait.aggregation import RULES, Geometry, Rule, geometry_of, rule_named, rules_for
from plait.aggregation.means import square_geometry
from plait.cli.output import print_json, print_tables
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.flower import ALL_RULES
from plait.plugin_search import installed
from plait.plugins import Kind
from plait.report.table import Table
from plait.report.terminal import status
from plait.run import blueprint_of
from plait.settings.choice import options_of
from plait.settle import settle
from plait.training.bases import locate_config, quiet_libraries
from plait.training.blueprint import design, read_base_config

_FP32_BYTES = 4
_VIRTUAL_TOKENS = 20


def print_methods(config: RunConfig, *, json_output: bool) -> None:
    """Print the adapter methods: what is averaged and how exactly, which rules apply, what is sent."""
    base, rank = config.base, config.rank
    with status("designing an adapter of each method", quiet=json_output):
        entries = _methods(base, rank)
    if json_output:
        print_json({"base": base, "rank": rank, "virtual_tokens": _VIRTUAL_TOKENS, "methods": entries})
        return
    print_tables(_tables(entries, f"{base}, rank {rank}, {_VIRTUAL_TOKENS} virtual tokens"))


def print_rules(config: RunConfig, *, json_output: bool) -> None:
    """Print the aggregation rules: what each computes, its properties, and what a client sends and receives."""
    with status("reading the base's config", quiet=json_output):
        quiet_libraries()
        geometry = geometry_of(blueprint_of(settle(config), locate_config(config.base)).spec)
    own = [rule_named(name, ALL_RULES) for name in sorted(installed(Kind.RULE)) if name not in ALL_RULES]
    listed = [*ALL_RULES.values(), *own]
    entries = [_rule(rule, geometry) for rule in listed]
    if json_output:
        of_base = {"base": config.base, "rank": config.rank, "adapter_parameters": geometry.layout.size}
        print_json({**of_base, "rules": entries})
        return
    print_tables([_meanings(entries), _options(listed), _costs(entries, f"{config.base}, rank {config.rank}")])


def _methods(base: str, rank: int) -> list[dict[str, Any]]:
    quiet_libraries()
    config = read_base_config(locate_config(base), AdapterTask.CAUSAL_LM)
    entries: list[dict[str, Any]] = []
    own = [method_named(name) for name in sorted(installed(Kind.METHOD)) if name not in METHODS]
    for method in (*METHODS.values(), *own):
        request = AdapterRequest(method=method.name, rank=rank, virtual_tokens=_VIRTUAL_TOKENS)
        parameters = refused = None
        try:
            parameters = design(config, request, task=AdapterTask.CAUSAL_LM, seed=0).spec.layout.size
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
        "and lora_xs starts at 0.25 / rank, or half of that at two bits or less; `--lr-schedule` sets how both "
        "continue. "
        "Every parameter is sent once up and once down per round, at the bits per parameter that --bits sets. Every "
        "client derives what is never sent from the base or from a seed.",
        text_columns=(0, 3, 4),
    )
    return meanings, costs


def _rule(rule: Rule, factors: Geometry) -> dict[str, Any]:
    """One rule on one adapter; Fed-SB's is LoRA-XS on the same modules."""
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
        note="Up and down: parameters, and megabytes as float32 before encoding (see --bits); the mean if rounds "
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

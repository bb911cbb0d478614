"""``plait check-plugin`` and ``plait bench``: for those who add parts to plait, or work on it."""

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import plait
from plait.adapters.methods import method_named
from plait.aggregation import optimizer_for, rule_named
from plait.aggregation.contract import OPTIMIZER_CHECKS, RULE_CHECKS
from plait.cli.output import print_json, print_text
from plait.data import Dataset, Record, RecordKind, as_dataset
from plait.data.given import DATASET_CHECKS
from plait.errors import ConfigError, MachineError, PlaitError
from plait.own_code import BrokenError, Check, ClaimVerdict, checked
from plait.plugin_search import installed
from plait.plugins import Kind, admit, find, source_of
from plait.rounds.callbacks import CALLBACK_CHECKS, callback_named
from plait.settings.choice import parse_choice
from plait.simulation.partition import Partition, partition
from plait.simulation.scheme import Scheme, parse_partition
from plait.training import contract
from plait.training.own_functions import checker_named, loss_named, reward_named
from plait.wire.codecs import codec_for
from plait.wire.codecs.own import CODEC_CHECKS
from plait.wire.settings import CROSS_ENTROPY

_RECORDS, _CLIENTS = 120, (2, 5)
"""Of the contract of a partition scheme."""
# What a run needs of a trainer, the run checks (`plait.training.bridge`).
_CHECKED = tuple(kind for kind in Kind if kind is not Kind.TRAINER)
_MEMBERS = {
    "adjust": Kind.SERVER_OPTIMIZER, "encode": Kind.CODEC, "peft_type": Kind.METHOD, "add": Kind.RULE,
    "losses": Kind.OBJECTIVE,
}  # fmt: skip
_PARAMETERS: Mapping[tuple[str, ...], Kind] = {
    ("updates", "ctx"): Kind.RULE,
    ("dataset", "clients", "seed"): Kind.PARTITION,
    ("logits", "labels", "adapter"): Kind.LOSS,
    ("prompt", "completion", "answer"): Kind.REWARD,
    ("event",): Kind.CALLBACK,
}


class PluginFaultError(PlaitError):
    """A part that breaks a claim."""


def check_plugin(
    name: Annotated[str, typer.Argument(help="MODULE:NAME or the name of an installed part, with its options.")],
    kind: Annotated[str, typer.Option(help="What it is; by default its members and parameters tell.")] = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Run the contract checks that plait's own parts pass on a part of your own; exit code 1 if one fails.

    Example: plait check-plugin my_rules:MedianOfMeans
    """
    admit(name)
    plain = parse_choice(name)[0]
    chosen = _kind_of(plain, kind)
    verdicts: list[ClaimVerdict] = []
    for each in _verdicts(chosen, name):
        verdicts.append(each)
        if not json_output:
            mark = {True: "ok    ", False: "BROKEN", None: "-     "}[each.holds]
            print_text(f"{mark}  {each.claim}{f': {each.detail}' if each.detail else ''}", indent=8)
    if json_output:
        source = source_of(chosen, plain)
        checks = [{"claim": each.claim, "holds": each.holds, "detail": each.detail} for each in verdicts]
        print_json({"kind": chosen.value, "name": plain, "sha256": source.sha256, "checks": checks})
    broken = [each for each in verdicts if each.holds is False]
    if broken:
        raise PluginFaultError(f"{chosen} '{plain}' breaks {len(broken)} of {len(verdicts)} claims")


def _kind_of(name: str, given: str) -> Kind:
    if given:
        try:
            return Kind(given.replace("-", " "))
        except ValueError:
            raise ConfigError(f"kind is '{given}', expected one of {', '.join(_CHECKED)}") from None
    if ":" not in name:
        kinds = [kind for kind in _CHECKED if name in installed(kind)]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "nothing"
            raise ConfigError(
                f"'{name}' is installed as {found}, expected MODULE:NAME, or --kind with one of the kinds"
            )
        return kinds[0]
    part = find(Kind.RULE, name)
    call: object = getattr(part, "__call__", None) if inspect.isclass(part) else part  # noqa: B004 (its signature)
    try:
        parameters = tuple(
            each.name
            for each in inspect.signature(call).parameters.values()  # pyright: ignore[reportArgumentType]
            if each.default is each.empty and each.name != "self"
        )
    except (TypeError, ValueError):
        parameters = ()
    if parameters in _PARAMETERS:
        return _PARAMETERS[parameters]
    return next((kind for member, kind in _MEMBERS.items() if hasattr(part, member)), Kind.RULE)


def _verdicts(kind: Kind, text: str) -> Iterator[ClaimVerdict]:
    match kind:
        case Kind.RULE:
            yield from checked(rule_named(text, {}), RULE_CHECKS)
        case Kind.SERVER_OPTIMIZER:
            yield from checked(optimizer_for(text), OPTIMIZER_CHECKS)
        case Kind.CODEC:
            yield from checked(codec_for(text), CODEC_CHECKS)
        case Kind.PARTITION:
            yield from checked(parse_partition(text), PARTITION_CHECKS)
        case Kind.LOSS:
            if text == CROSS_ENTROPY:
                raise ConfigError(f"loss is '{text}', which is built in, expected one of your own")
            yield from checked(loss_named(text), contract.LOSS_CHECKS)
        case Kind.METHOD:
            yield ClaimVerdict(f"is a method over PEFT's {method_named(text).peft_type}", True)
        case Kind.DATASET:
            yield from checked(partial(as_dataset, text), DATASET_CHECKS)
        case Kind.CALLBACK:
            yield from checked(partial(callback_named, text), CALLBACK_CHECKS)
        case Kind.OBJECTIVE:
            yield from checked(contract.own_formula(text), contract.OBJECTIVE_CHECKS)
        case Kind.REWARD | Kind.METRIC:
            named = reward_named if kind is Kind.REWARD else checker_named
            yield from checked(named(text), contract.REWARD_CHECKS)
        case _:
            raise ConfigError(f"kind is '{kind}', which has no checks, expected one of {', '.join(_CHECKED)}")


def _parts(scheme: Scheme, clients: int) -> Partition:
    records: list[Record] = []
    for number in range(_RECORDS):
        text, label, author = f"line {number} " * (1 + number % 7), f"class-{number % 3}", f"a{number % 6}"
        records.append(Record(text=text, label=label, columns={"author": author}))
    data = Dataset.of("check", RecordKind.LABEL, records)
    return partition(data, scheme, clients=clients, seed=0)


def _shares(scheme: Scheme) -> str:
    notes = [note for clients in _CLIENTS for note in _parts(scheme, clients).notes]
    return "; ".join(notes[:1])


def _same(scheme: Scheme) -> None:
    for clients in _CLIENTS:
        if _parts(scheme, clients) != _parts(scheme, clients):
            raise BrokenError("the same data and seed give other shares, expected the same")


PARTITION_CHECKS: tuple[Check[Scheme], ...] = (
    Check("each client gets a share and no record is in two", _shares),
    Check("the same data and seed give the same shares", _same),
)


def bench(context: typer.Context) -> None:
    """Measure plait against alternatives and the machine's limit; needs the source tree.

    Example: plait bench wire --quick
    """
    root = Path(plait.__file__).parents[1]
    if not (root / "simulations" / "bench" / "commands.py").is_file():
        raise MachineError("benchmarks need plait's source tree: run plait bench in a checkout")
    sys.path[:] = [str(root), *(place for place in sys.path if place != str(root))]
    commands = importlib.import_module("simulations.bench.commands")
    commands.bench(args=context.args, prog_name="plait bench", standalone_mode=False)

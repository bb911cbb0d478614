"""The settings of a run, read once at the edge from TOML and the command line.

A key is written once, in `RunConfig` or the table of `plait.settings` that has it, and is the same everywhere: an
option (``--quorum 0.5``), a key of its table in TOML (``[cohort]`` ``quorum = 0.5``), an argument in Python, and a key
of Flower's run configuration, which has no tables. Below the edge plain values are passed on, never this object.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import Field, ValidationError, model_validator

from plait.errors import ConfigError, did_you_mean
from plait.objectives import Objective, objective_named
from plait.plugins import Kind
from plait.settings import pace, privacy, tables
from plait.settings.choice import split_choices
from plait.settings.table import (
    MOST,
    MOST_EXAMPLES,
    MOST_TOKENS,
    Scalar,
    SettingsTable,
    choice_of,
    nested,
    parts_of,
    toml_value,
)
from plait.settings.traits import Stated, Trait, check, taken
from plait.system.text import escaped

# Names that users know from other systems: FlowerTune, TRL/transformers, PEFT.
ALIASES: Mapping[str, str] = {
    "num-server-rounds": "rounds",
    "num-rounds": "rounds",
    "num-clients": "clients",
    "num-supernodes": "clients",
    "model": "base",
    "model-name": "base",
    "model-name-or-path": "base",
    "dataset-name": "data",
    "per-device-train-batch-size": "batch-size",
    "max-steps": "local-steps",
    "max-length": "seq-len",
    "max-seq-length": "seq-len",
    "lr": "learning-rate",
    "lora-r": "rank",
    "peft-lora-r": "rank",
    "r": "rank",
    "lora-alpha": "alpha",
    "peft-lora-alpha": "alpha",
    "lora-dropout": "dropout",
    "lr-scheduler-type": "lr-schedule",
    "num-train-epochs": "epochs",
    "num-epochs": "epochs",
    "output-dir": "out",
    "output": "out",
    "base-model": "base",
    "metrics": "eval-metrics",
    "dataset": "data",
}
# Names that settings had before 0.1: still read, shown nowhere.
RENAMED: Mapping[str, str] = {"wire": "bits", "own-share": "personalize", "keep": "select"}

_NO_OPTIMIZER = (
    "expected none: clients train by AdamW, because others, such as SGD, take steps that reveal gradients, and these "
    "texts; server-optimizer names the server's"
)
# What other systems have and plait has not, with what to give in its place.
_REFUSED: Mapping[str, str] = {
    "local-epochs": "expected epochs, which count the passes of the whole run: local-epochs times rounds",
    "optim": _NO_OPTIMIZER,
    "optimizer": _NO_OPTIMIZER,
}
MOST_LABELS = 10_000
"""The most classes that a run can have."""


class RunConfig(
    tables.Learning,
    tables.AdapterSettings,
    tables.OptimizerSettings,
    tables.Passes,
    tables.Cohort,
    tables.Checks,
    tables.EvaluationSettings,
    tables.MachineSettings,
    tables.Reporting,
    pace.Asynchronous,
    pace.Fleets,
    privacy.Groups,
    privacy.Privacy,
    tables.Figures,
    tables.Samples,
    privacy.Masks,
    tables.Stacking,
    tables.Withdrawal,
    heading="Run",
):
    """Everything that decides what a run computes: the settings above all tables, and those of `plait.settings`.

    Each field is an option of ``plait simulate``. Files, help and documentation have the tables in this order.
    """

    data: str = "stdlib"
    """file or folder, data set of the hub (owner/name:config@revision), or a built-in: stdlib, chatterbot, bbc; files
    may be JSONL, JSON, CSV, TSV, Parquet, Arrow or text, also .gz and .zst"""
    columns: str = ""
    """columns that have other names, such as text=body,client=author; fields are text, prompt, completion, messages,
    label and client"""
    split: str = ""
    """split to train on, or TRAIN,HELD_OUT, such as train[:1000],test; by default train, and validation or else test is
    held out"""
    labels: str = ""
    """class names separated by commas; by default read from the data"""
    partition: str = ""
    """natural:COLUMN, iid, dirichlet:ALPHA, pathological:N, shard:N, linear, square, exponential; the
    default depends on the data"""
    base: str = "smollm2-135m"
    """Hugging Face directory, GGUF file, hub id (owner/name@revision), or a built-in: smollm2-135m, minilm-l6, tiny"""
    clients: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """clients in the federation; simulated ones by default as many as a column of the data names, or 8"""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """rounds of training"""
    local_steps: Annotated[int, Field(ge=1, le=MOST)] = 4
    """optimizer steps per client and round; or give epochs"""
    batch_size: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)] = 4
    """sequences per forward pass"""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)] = 1
    """forward passes per optimizer step"""
    seq_len: Annotated[int, Field(ge=8, le=MOST_TOKENS)] = 128
    """tokens per training sequence"""
    method: str = "lora"
    """adapter method: lora, dora, qlora, vera, ia3, prompt:virtual-tokens=20, full …; list prints all"""
    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """rank of the low-rank factors"""
    rule: str = "fedavg"
    """aggregation rule: fedavg, flexlora, fedsa, ffa, krum, trimmed_mean:share=0.1 …; list prints all"""
    weighting: Literal["examples", "equal"] = "equal"
    """weight of a client: equal for all, or proportional to its training examples (as in FedAvg)"""
    server_optimizer: str = "auto"
    """optimizer applied to a round's update, with options: none, line_search, sgd:lr=1.5,momentum=0.9, fedadam:lr=0.003
    …; auto is line_search where clients can measure slopes, else none"""
    bits: str = "1"
    """encoding on the wire: fp32, bf16, or 8 to 1 bits per parameter; for fewer bytes take a lower rank at 1"""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """seed of all randomness"""
    out: str = ""
    """run directory; by default runs/<time>"""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        for table in (RunConfig, *TABLES):
            for name, (other, values) in table.within.items():
                if self.is_given(name) and not (getattr(self, other) in values if values else self.is_given(other)):
                    one, beside = self.states(name), self.states(other)
                    has = " or ".join(f"{beside.key} {value}" for value in values or ("given",))
                    raise ValueError(
                        f"{one} and {beside}, expected {one.instead} or {has}: {one.key} has no meaning otherwise"
                    )
        self._check_numbers()
        try:
            check(tuple(self.stated()))
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_numbers(self) -> None:
        """Refuse values of one setting, and numbers of several, that cannot be."""
        examples = self.batch_size * self.gradient_accumulation_steps
        if examples > MOST_EXAMPLES:
            raise ValueError(
                f"batch-size times gradient-accumulation-steps is {examples}, expected at most {MOST_EXAMPLES}"
            )
        if self.epochs and "local_steps" in self.model_fields_set:
            raise ValueError(
                f"epochs is {self.epochs:g} and local-steps is {self.local_steps}, expected one of them: both set how "
                "long a client trains"
            )
        if self.eval_metrics and not self.learned.is_plain:
            raise ValueError(f"eval-metrics and objective {self.objective} are both given, expected objective sft")
        deciding = tuple(each for each in split_choices(self.eval_metrics) if each != "confusion")
        if self.select_by and self.select_by not in deciding:
            raise ValueError(f"select-by is '{self.select_by}', expected one of eval-metrics: {', '.join(deciding)}")
        for text in parts_of(self.client_ranks):
            if not (text.isascii() and text.isdigit() and 1 <= int(text) <= self.rank):
                raise ValueError(f"client-ranks has '{text}', expected whole numbers from 1 to rank = {self.rank}")
        if len(self.label_names) > MOST_LABELS:
            raise ValueError(f"labels has {len(self.label_names)} names, expected at most {MOST_LABELS}")
        if self.labels and not 1 < len(set(self.label_names)) == len(self.label_names):
            raise ValueError(f"labels are '{self.labels}', expected at least two different names")
        for table in TABLES:
            table.check_clients(self, self.clients, self.cohort_size)

    def stated(self) -> Iterator[Stated]:
        """What all settings need of a run, and what they take away; their parts state more (`plait.settle`)."""
        for table in TABLES:
            yield from table.stated(self)
        learned = self.learned
        if not learned.is_plain:
            yield self.states("objective", needs=learned.needs, removes=learned.removes)
        if not self.one_rank:
            needs = {Trait.FACTORS: "other adapters cannot be cut to a lower rank"}
            yield self.states("client_ranks", needs=needs, removes={Trait.ONE_RANK: "client-ranks gives others"})
        if self.weighting == "examples":
            yield self.states("weighting", needs={Trait.FIGURES: "the number of examples is a client's weight"})
        if self.labels:
            yield self.states("labels", removes={Trait.LANGUAGE: "a classifier writes none"})

    @property
    def learned(self) -> Objective:
        """What clients learn."""
        return objective_named(self.objective)

    @property
    def missing(self) -> frozenset[Trait]:
        """The traits that a run with these settings no longer has."""
        return taken(self.stated())

    @property
    def evaluates(self) -> bool:
        """Whether clients report losses on data that they hold out."""
        return Trait.LOSSES not in self.missing

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the clients, in the order given; only `rank` if none are given."""
        return tuple(map(int, parts_of(self.client_ranks))) or (self.rank,)

    @property
    def one_rank(self) -> bool:
        """Whether all clients have the server's own rank."""
        return set(self.ranks) == {self.rank}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes in index order; empty for a language model."""
        return parts_of(self.labels)

    @property
    def cohort_size(self) -> int:
        """Clients that train in one round."""
        return self.clients_per_round or self.clients

    @property
    def evaluators(self) -> int:
        """Clients that are asked to evaluate."""
        return min(self.eval_clients or self.clients, self.clients)

    @property
    def most_steps(self) -> int:
        """Steps that one client may be asked for in one round, unless its data decide (`epochs`)."""
        return self.local_steps * self.most_times

    @property
    def parts(self) -> tuple[tuple[Kind, str], ...]:
        """The settings that may name a user's own part, by its kind, with their options."""
        return (
            (Kind.RULE, self.rule),
            (Kind.SERVER_OPTIMIZER, self.server_optimizer),
            (Kind.CODEC, self.bits),
            (Kind.METHOD, self.method),
            (Kind.TRAINER, self.trainer),
            (Kind.LOSS, self.loss),
            (Kind.OBJECTIVE, self.objective),
            *self.learned.parts,
            *((Kind.METRIC, text) for text in split_choices(self.eval_metrics)),
            (Kind.PARTITION, self.partition),
            # A path, a data set of the hub and an object in memory are none.
            (Kind.DATASET, "" if "/" in self.data or self.data.startswith("memory:") else self.data),
            *((Kind.CALLBACK, text) for text in split_choices(self.callbacks)),
        )

    def has_any(self, table: type[SettingsTable]) -> bool:
        """Whether a setting of a table is given."""
        return any(map(self.is_given, table.model_fields))

    @property
    def tables(self) -> tuple[type[SettingsTable], ...]:
        """Those of which something is recorded."""
        return tuple(each for each in TABLES if not each.optional or self.has_any(each))

    @property
    def plugins(self) -> tuple[str, ...]:
        """What `plait.plugins.admit` takes of the settings, where they are this operator's own."""
        return tuple(text for _, text in self.parts)

    def with_out(self) -> Self:
        """The same settings, with the run directory named after the time if none is given."""
        return self if self.out else self.model_copy(update={"out": f"runs/{datetime.now():%Y%m%d-%H%M%S}"})

    def to_table(self) -> dict[str, Scalar]:
        """The settings under the keys that users write, without tables."""
        dumped = self.model_dump(by_alias=True)
        return {key: dumped[key] for key in known_keys(self.tables) if not (self.epochs and key == "local-steps")}


TABLES = cast("tuple[type[SettingsTable], ...]", RunConfig.__bases__)


def sections(
    tables: tuple[type[SettingsTable], ...] = TABLES,
) -> tuple[tuple[type[SettingsTable], tuple[str, ...]], ...]:
    """The names of the settings above all tables, and those of each of these tables."""
    own = tuple(name for name in RunConfig.model_fields if not any(name in each.model_fields for each in TABLES))
    return ((RunConfig, own), *((each, tuple(each.model_fields)) for each in tables))


@cache
def known_keys(tables: tuple[type[SettingsTable], ...] = TABLES) -> tuple[str, ...]:
    """The keys of the settings above all tables and of these tables, as users write them."""
    return tuple(name.replace("_", "-") for _, names in sections(tables) for name in names)


def key_named(given: str, *, where: str) -> str:
    """The key of a setting as plait writes it, from one that may use ``_`` or be another system's; else ConfigError."""
    known = known_keys()
    key = own_key(given)
    if key in _REFUSED:
        raise _refusal(f"{where}: '{given}' is given, {_REFUSED[key]}")
    if key not in known:
        raise _refusal(
            f"{where}: unknown key '{given}'{did_you_mean(key, known) or ', expected one of: ' + ', '.join(known)}"
        )
    return key


def own_key(given: str) -> str:
    """A key with ``-``, and by plait's name if it is an earlier one or another system's; checks nothing."""
    key = given.replace("_", "-").lower()
    return ALIASES.get(key) or RENAMED.get(key, key)


def is_foreign(name: str) -> bool:
    """Whether a setting was called so before, other systems call it so, or have one that plait refuses."""
    return name in ALIASES or name in RENAMED or name in _REFUSED


def config_from_table(table: Mapping[str, object], *, where: str = "configuration") -> RunConfig:
    """Check a table of settings; keys may use ``-`` or ``_``, or the names that other systems use.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a value of the wrong type or out of bounds, or two
            keys that clash.
    """
    settings: dict[str, object] = {}
    names: dict[str, str] = {}
    for given, value in nested(without_tables(table, where=where)).items():
        key = key_named(given, where=where)
        if key in settings:
            raise _refusal(f"{where}: '{names[key]}' and '{given}' both give {key}; give one of them")
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise _refusal(f"{where}: {key} is {value!a}, expected Unicode text")
        settings[key], names[key] = choice_of(key, value, where), given
    try:
        found = RunConfig.model_validate(settings)
        # A table of which nothing is asked leaves no trace.
        idle = {name for each in {*TABLES} - {*found.tables} for name in each.model_fields}
        given = {name: getattr(found, name) for name in found.model_fields_set - idle}
        return found if given.keys() == found.model_fields_set else RunConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if not key:
            raise _refusal(f"{where}: {message}") from error
        hint = ""
        if first["type"] == "literal_error" and isinstance(first["input"], str):
            field = RunConfig.model_fields[key.replace("-", "_")]
            hint = did_you_mean(first["input"], map(str, get_args(field.annotation)))
        raise _refusal(
            f"{where}: {key} is {first['input']!r}, {message.replace('input should be', 'expected')}{hint}"
        ) from error


def without_tables(table: Mapping[str, object], *, where: str) -> dict[str, object]:
    """The settings of a TOML file, or in Flower's spelling, with the keys of its tables among the others."""
    flat: dict[str, object] = {}
    tables, core = _fields_by_table(), {*known_keys(), *ALIASES, *RENAMED}
    for given, value in table.items():
        name, _, inner = given.partition(".")
        group = () if name.replace("_", "-") in core else tables.get(name, ())
        entries = {inner or given: value}
        if group and not inner:
            if not isinstance(value, Mapping):
                if name in _REFUSED:
                    key_named(name, where=where)
                raise _refusal(f"{where}: {given} is {value!r}, expected a table of settings, [{given}]")
            entries = dict(cast("Mapping[str, object]", value))
        for key, each in entries.items() if group else [(given, value)]:
            if group and key_named(key, where=f"{where}: [{name}]").replace("-", "_") not in group:
                raise _refusal(f"{where}: '{key}' is in [{name}], expected {_place(key_named(key, where=where))}")
            if key in flat:
                raise _refusal(f"{where}: {key} is given above all tables and in [{name}], expected it once")
            flat[key] = each
    return flat


def _fields_by_table() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for each in TABLES:
        found[each.table] = (*found.get(each.table, ()), *each.model_fields)
    return found


def _place(key: str) -> str:
    found = (each.table for each in TABLES if key.replace("-", "_") in each.model_fields)
    return next((f"it in [{name}]" for name in found), "it above all tables")


def _refusal(text: str) -> ConfigError:
    """An error of one line, whatever keys and values it quotes."""
    return ConfigError(escaped(text))


def to_toml(config: RunConfig) -> str:
    """The settings as TOML, one key per line, for use with ``--config``."""
    tables = list(dict.fromkeys(each.table for each, _ in sections(config.tables)))
    lines: list[str] = []
    values, last = config.to_table(), ""
    for group, names in sorted(sections(config.tables), key=lambda section: tables.index(section[0].table)):
        if group.table != last:
            lines.append(f"\n[{group.table}]\n")
        last = group.table
        lines += [
            f"{key} = {toml_value(values[key])}\n"
            for key in (name.replace("_", "-") for name in names)
            if key in values
        ]
    return "".join(lines)

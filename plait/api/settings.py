"""The settings and the data that a program gives, as a run has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from plait.config import RunConfig, config_from_table, own_key
from plait.data import as_dataset
from plait.errors import ConfigError
from plait.plugins import Kind, admit, reference
from plait.settings.tables import Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from plait.adapters.method import Method
    from plait.aggregation import ServerOptimizer
    from plait.data import Dataset, Progress
    from plait.wire.codec import Codec


class RunSettings(TypedDict, total=False):
    """Every setting of a run (`plait.config.RunConfig`) but the functions' own arguments; parts may be objects."""

    columns: str | Mapping[str, str]
    split: str
    clients_per_round: int
    quorum: float
    fleet: str | PathLike[str]
    deadline_s: float
    norm_bound: str | float
    keep_updates: bool
    secure_aggregation: bool
    dp: Literal["off", "client", "record"]
    dp_clip: float | Literal["adaptive"]
    dp_epsilon: float
    dp_delta: float
    group: str
    dp_unit: Literal["auto", "record", "group"]
    dp_group_records: int
    local_steps: int
    step_budget: Literal["equal", "speed"]
    rounds_mode: str
    batch_size: int
    gradient_accumulation_steps: int
    seq_len: int
    learning_rate: float
    lr_schedule: Literal["auto", Schedule]
    lr_schedule_over: Literal["run", "round"]
    epochs: float
    packing: bool
    weight_decay: float
    max_grad_norm: float
    method: str | Method
    rank: int
    alpha: float
    client_ranks: str
    dropout: float
    target_modules: str
    init_adapter: str | PathLike[str]
    weighting: Literal["examples", "equal"]
    server_optimizer: str | ServerOptimizer
    correction: str
    objective: str | Mapping[str, object] | object
    loss: str | Callable[..., object]
    personalize: float | Literal["auto"]
    bits: str | float | Codec
    held_out_fraction: float
    max_held_out_sequences: int
    judge_part: int | Literal["auto"]
    eval_every: int
    eval_clients: int
    select_by: str
    eval_metrics: str | Sequence[str | Callable[..., object]]
    select: Literal["accepted", "best", "last"]
    reference: str
    labels: str
    trainer: str | Callable[..., object]
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    threads: int
    seed: int
    publish: str | PathLike[str]
    samples: int
    without_clients: str


_PARTS: Mapping[str, Kind] = {
    "rule": Kind.RULE,
    "server_optimizer": Kind.SERVER_OPTIMIZER,
    "bits": Kind.CODEC,
    "method": Kind.METHOD,
    "partition": Kind.PARTITION,
    "trainer": Kind.TRAINER,
    "loss": Kind.LOSS,
    "objective": Kind.OBJECTIVE,
}


def run_config_of(given: Mapping[str, object]) -> RunConfig:
    """The settings of a run from what a program gave; parts that are objects get a name, None means not given."""
    table = {key: _value(own_key(key).replace("-", "_"), value) for key, value in given.items() if value is not None}
    config = config_from_table(table, where="settings").with_out()
    admit(*config.plugins)
    return config


def base_name(base: str | PathLike[str] | PreTrainedModel | None, tokenizer: object) -> str | PathLike[str] | None:
    """The settings' name of a base: that of a model in memory is its directory in the cache."""
    if base is not None and not isinstance(base, (str, PathLike)):
        from plait.training import base_cache, bases  # transformers

        bases.quiet_libraries()
        return base_cache.kept_base(base, tokenizer)
    if tokenizer is not None:
        raise ConfigError("tokenizer is given, expected none: a base on disk has its own")
    return base


def _value(key: str, value: object) -> object:
    """A setting as the command line has it."""
    if isinstance(value, (str, PathLike)):
        return fspath(cast("str | PathLike[str]", value))
    if key == "bits" and isinstance(value, (int, float)):
        return f"{value:g}"
    if key == "eval_metrics" and not isinstance(value, str):
        named = cast("Sequence[object]", value)
        return ",".join(reference(Kind.METRIC, each) if callable(each) else str(each) for each in named)
    if key in _PARTS:
        if not isinstance(value, Mapping):
            return reference(_PARTS[key], value)
        chosen = cast("Mapping[str, object]", value)
        return {name: reference(Kind.REWARD, each) if callable(each) else each for name, each in chosen.items()}
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value)
        return ",".join(f"{name}={column}" for name, column in pairs.items())
    return value


def dataset_of(
    data: object,
    *,
    columns: str | Mapping[str, str] = "",
    split: str = "",
    name: str = "",
    progress: Progress = lambda _: None,
) -> Dataset:
    """The data (see `plait.data.as_dataset`); a function of the user's own that they name may be imported."""
    if isinstance(data, str):
        admit(data)
    return as_dataset(data, columns=columns, split=split, name=name, progress=progress)

"""A spec from another party: parsed and checked, but not yet matched with a base.

Knows no PEFT class and builds nothing, so a client can inspect an adapter before it builds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from plait.adapters.layout import Layout
from plait.adapters.methods import FLAGS, METHODS, method_named
from plait.adapters.peft_settings import MAX_RANK, checked_settings
from plait.adapters.spec import AdapterSpec, Json, Task
from plait.adapters.strict_json import parse_object, shown
from plait.errors import ConfigError, PeerError

MAX_BYTES = 1 << 20
MAX_LABELS = 65_536
MAX_LABEL_CHARACTERS = 4096
MAX_SEED = (1 << 63) - 1

_WHAT = "the adapter spec"
_TASK_TYPES: Mapping[Task, str] = {Task.CAUSAL_LM: "CAUSAL_LM", Task.CLASSIFICATION: "SEQ_CLS"}


@dataclass(frozen=True)
class SpecRequest:
    """The content of `AdapterSpec.text`.

    Attributes:
        method: one of the methods of plait.
        task: as in `AdapterSpec`, like the remaining fields.
    """

    method: str
    peft_config: Mapping[str, Json]
    task: Task
    labels: tuple[str, ...]
    seed: int
    init_rank: int = 0

    @property
    def rank(self) -> int:
        """Of every module; 0 if the method has no rank."""
        return cast("int", self.peft_config.get("r", 0))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the adapted modules, ``all-linear`` for all linear ones; none for a learned prompt."""
        targets = self.peft_config.get("target_modules")
        return tuple(cast("list[str]", targets)) if isinstance(targets, list) else (str(targets),) if targets else ()

    @property
    def virtual_tokens(self) -> int:
        """Length of a learned prompt; 0 for other methods."""
        return cast("int", self.peft_config.get("num_virtual_tokens", 0))

    def unbuilt(self) -> AdapterSpec:
        """The spec without its layout, for code that needs only task and labels."""
        return AdapterSpec(
            self.method, self.peft_config, self.task, self.labels, Layout.of({}), self.seed, self.init_rank
        )


def parse_spec(text: str) -> SpecRequest:
    """Read and check a spec from another party.

    Raises:
        PeerError: it is not a spec, names a method that this version does not know, or has a setting that is not
            allowed.
    """
    spec = parse_object(text.encode("utf-8", "surrogatepass"), what=_WHAT, max_bytes=MAX_BYTES)
    stated = ("init_seed", "labels", "method", "peft_config", "task")
    for key in sorted(set(stated) ^ (spec.keys() - {"init_rank"})):
        raise PeerError(
            f"{shown(key)} of {_WHAT} is {'unknown' if key in spec else 'missing'}, expected {', '.join(stated)}"
        )
    method, settings = spec["method"], spec["peft_config"]
    if not isinstance(method, str):
        raise PeerError(f"method of {_WHAT} is {shown(method)}, expected one of {', '.join(METHODS)}")
    try:
        own = method_named(method)
    except ConfigError as error:
        raise PeerError(f"method of {_WHAT} is {shown(method)}, expected one of {', '.join(METHODS)}") from error
    if not isinstance(settings, dict):
        raise PeerError(f"peft_config of {_WHAT} is {shown(settings)}, expected an object of settings")
    task = _task(spec["task"])
    checked = checked_settings(settings, what=_WHAT)
    peft_type, fixed = own.peft_type, own.fixed
    _expect("peft_type", checked["peft_type"], peft_type, f"of method '{method}'")
    _expect("task_type", checked.get("task_type"), _TASK_TYPES[task], f"of task '{task}'")
    for flag in sorted({*FLAGS, *fixed}):
        _expect(flag, checked.get(flag, False), fixed.get(flag, False), f"of method '{method}'")
    return SpecRequest(
        method=method,
        peft_config=checked,
        task=task,
        labels=_labels(spec["labels"], task),
        seed=_whole("init_seed", spec["init_seed"], MAX_SEED),
        init_rank=_whole("init_rank", spec.get("init_rank", 0), MAX_RANK),
    )


def _expect(key: str, got: Json, expected: Json, because: str) -> None:
    if got != expected:
        raise PeerError(f"{key} of {_WHAT} is {shown(got)}, expected {expected!r} {because}")


def _task(value: Json) -> Task:
    if not isinstance(value, str) or value not in set(Task):
        raise PeerError(f"task of {_WHAT} is {shown(value)}, expected one of {', '.join(Task)}")
    return Task(value)


def _labels(value: Json, task: Task) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_LABELS:
        raise PeerError(f"labels of {_WHAT} are {shown(value)}, expected a list of at most {MAX_LABELS} names")
    for label in value:
        if not isinstance(label, str) or not label.isprintable() or len(label) > MAX_LABEL_CHARACTERS:
            raise PeerError(f"a label of {_WHAT} is {shown(label)}, expected a printable name")
    labels = tuple(cast("list[str]", value))
    if len(set(labels)) < len(labels) or (labels and task is Task.CAUSAL_LM):
        raise PeerError(f"labels of {_WHAT} are {shown(value)}, expected different names, and none of a language model")
    return labels


def _whole(key: str, value: Json, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise PeerError(f"{key} of {_WHAT} is {shown(value)}, expected a whole number from 0 to {most}")
    return value

"""A user's own rule: from a function or a class to a `Rule`; and what a client has to know of it, its traits.

A function gets all updates of a round at once; its parameters with defaults are the rule's options:

    @plait.rule
    def median_of_means(updates, ctx, *, groups: int = 3):
        parts = np.array_split(updates.deltas, min(groups, len(updates.deltas)))
        return np.median([part.mean(axis=0) for part in parts], axis=0)

A class is constructed with the round's context and has `add(contribution)` and `finish()`, which returns the step. A
frozen dataclass that returns such an object when called with the context has its fields as options. A welcome states
the traits of such a rule (``stated:name=my_rules:Mine,linear=true``); a client that reads them imports nothing.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, NoReturn, TypedDict, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32, Subject
from plait.aggregation.geometry import Side
from plait.aggregation.rule import (
    ANY_RANK,
    ONE_RANK,
    UP_TO_SERVER,
    Accumulator,
    Algorithm,
    Contribution,
    Exactness,
    Memory,
    Outcome,
    RankRange,
    Resizing,
    RoundContext,
    Rule,
)
from plait.aggregation.server_step import ServerOptimizer
from plait.errors import ConfigError
from plait.own_code import chosen_function, instance_of, located_errors


class Traits(TypedDict, total=False):
    """Traits that a rule can state; see `Rule`."""

    title: str
    computes: str
    subject: Subject
    exactness: Exactness
    linear: bool
    ranks: RankRange
    resizing: Resizing
    frozen: tuple[Side, ...]
    personal: Side | None
    continuous: bool
    needs_all: bool
    keeps_nearest: bool
    least_clients: int


@dataclass(frozen=True, eq=False)
class Updates:
    """All updates of a round, one row for each client, in client order.

    Attributes:
        deltas: (clients, parameters) float32, read-only: each client's adapter after training minus the one that it
            received, flat in the order of `layout`.
        weights: (clients,) float64; only their ratio matters. All 1 unless ``--weighting examples``.
        examples: (clients,) int64, the training examples that each client states; 0 where it is not known.
        losses: (clients,) float64, the mean training loss that each client states; NaN where it is not known.
        contributions: the same, client by client, with the adapter that each received.
    """

    deltas: Float32
    weights: NDArray[np.float64]
    names: tuple[str, ...]
    examples: NDArray[np.int64]
    losses: NDArray[np.float64]
    contributions: tuple[Contribution, ...]


@overload
def rule(made_from: Callable[..., object], /) -> Rule: ...
@overload
def rule(**traits: Unpack[Traits]) -> Callable[[Callable[..., object]], Rule]: ...
def rule(
    made_from: Callable[..., object] | None = None, /, **traits: Unpack[Traits]
) -> Rule | Callable[[Callable[..., object]], Rule]:
    """Make an aggregation rule of a function or a class: ``@plait.rule`` or ``@plait.rule(linear=True)``.

    Args:
        made_from: a function of `Updates`, `RoundContext` and options that gives a step, (parameters,), a pair of it
            and the next `ctx.memory`, or an `Outcome`; or a class as in this module's docstring.
        traits: as in `Rule`. By default a rule works on the tensors of any adapter; a function's `needs_all` is true.

    Raises:
        ConfigError: it is neither, or a trait contradicts it.
    """
    if made_from is None:
        return lambda part: _made(part, traits)
    return _made(made_from, traits)


def as_rule(part: object, *, name: str) -> Rule:
    """What a name stands for, as a rule under that name.

    Raises:
        ConfigError: it is not a rule, function or class.
    """
    if isinstance(part, Rule):
        return replace(part, name=name)
    if not callable(part) or not hasattr(part, "__qualname__"):
        raise ConfigError(f"rule '{name}' is a {type(part).__name__}, expected a function or class (see plait.rule)")
    return replace(_made(part, {}), name=name)


def _made(part: Callable[..., object], traits: Traits) -> Rule:
    name = f"{part.__module__}:{part.__qualname__}"
    is_class = inspect.isclass(part)
    algorithm = _algorithm(part, name)
    if not is_class and not traits.get("needs_all", True):
        raise ConfigError(
            f"needs_all of rule '{name}' is false, expected true: a function gets all updates at once (a class with "
            "add and finish does not)"
        )
    first_line = (inspect.getdoc(part) or "").partition("\n")[0] if part.__doc__ else ""
    plain = Rule(
        name=name,
        title=part.__qualname__,
        computes=first_line or f"what {name} makes of the deltas",
        algorithm=algorithm,
        subject=Subject.TENSORS,
        needs_all=not is_class,
        origin=part,
    )
    return replace(plain, **traits)


def _algorithm(part: Callable[..., object], name: str) -> Algorithm:
    make = part
    if not inspect.isclass(part):

        def at_once(function: Callable[..., object], context: RoundContext) -> Accumulator:
            return _OwnRound(_AllAtOnce(lambda updates: function(updates, context)), context, name)

        return cast("Algorithm", chosen_function(part, ("updates", "ctx"), what=f"rule '{name}'", through=at_once))
    attributes = dir(part)
    if "add" in attributes and "finish" in attributes:

        def begin(context: RoundContext) -> Accumulator:
            return _OwnRound(cast("Accumulator", make(context)), context, name)

        return begin
    if "__call__" in vars(part):
        return cast("Algorithm", instance_of(part, what=f"rule '{name}'"))
    raise ConfigError(f"rule '{name}' is a class without add and finish (see plait.rule)")


class _AllAtOnce:
    """Stores every update of a round and passes all of them to a function."""

    def __init__(self, combine: Callable[[Updates], object]) -> None:
        self._combine = combine
        self._contributions: list[Contribution] = []

    def add(self, contribution: Contribution) -> None:
        self._contributions.append(contribution)

    def finish(self) -> object:
        return self._combine(_updates(self._contributions))


class _OwnRound:
    """A user's own accumulator, whose result is checked."""

    def __init__(self, accumulator: Accumulator | _AllAtOnce, context: RoundContext, name: str) -> None:
        self._accumulator, self._context, self._name = accumulator, context, name

    def add(self, contribution: Contribution) -> None:
        """Pass one client's update on."""
        with located_errors(f"rule '{self._name}' failed in round {self._context.round}"):
            self._accumulator.add(contribution)

    def finish(self) -> Outcome:
        """The outcome."""
        with located_errors(f"rule '{self._name}' failed in round {self._context.round}"):
            made = self._accumulator.finish()
        return _outcome(made, self._context, self._name)


def _updates(contributions: list[Contribution]) -> Updates:
    deltas = np.stack([each.delta.flat for each in contributions])
    deltas.setflags(write=False)
    return Updates(
        deltas,
        np.array([each.weight for each in contributions]),
        tuple(each.client for each in contributions),
        np.array([each.examples for each in contributions], np.int64),
        np.array([each.loss for each in contributions]),
        tuple(contributions),
    )


def _outcome(made: object, context: RoundContext, name: str) -> Outcome:
    layout = context.geometry.layout
    if isinstance(made, Outcome):
        step, outcome = made.step.flat, made
    else:
        memory: Memory = {}
        if isinstance(made, tuple) and len(cast("tuple[object, ...]", made)) == 2:
            made, memory = cast("tuple[object, Mapping[str, Any]]", made)
        step = np.asarray(made)
        outcome = Outcome(AdapterState.zeros(layout), memory={key: np.asarray(value) for key, value in memory.items()})
    if step.shape != (layout.size,) or step.dtype.kind not in "fiu":
        raise ConfigError(
            f"rule '{name}' gave {step.dtype} of shape {step.shape}, expected one number for each of {layout.size} "
            "parameters"
        )
    with np.errstate(over="ignore"):
        step = step.astype(np.float32)
    if not np.isfinite(step).all():
        raise ConfigError(f"rule '{name}' gave a step in round {context.round} that is not finite")
    return replace(outcome, step=AdapterState(layout, step))


STATED = "stated"
"""The name in place of the rule's own."""
STATED_TRAITS = ("name", "subject", "ranks", "resizing", "frozen", "personal", "linear", "continuous")
"""The attributes of a `Rule` that are stated."""

_FLAGS = {"true": True, "false": False}
_CHOICES: Mapping[str, Mapping[str, object]] = {
    "subject": {each.name.lower(): each for each in Subject},
    "ranks": {"one": ONE_RANK, "lower": UP_TO_SERVER, "any": ANY_RANK},
    "resizing": {each.value: each for each in Resizing},
    "personal": {side.value: side for side in Side},
    "linear": _FLAGS,
    "continuous": _FLAGS,
}
"""How those with a few values are written."""
_MOST_NAME = 200


def stated_text(rule: Rule) -> str:
    """A rule as a welcome states it."""
    values = {
        key: text for key, texts in _CHOICES.items() for text, each in texts.items() if each == getattr(rule, key)
    }
    traits = {"name": rule.name, "frozen": "".join(rule.frozen), **values}
    return f"{STATED}:" + ",".join(f"{key}={traits[key]}" for key in STATED_TRAITS if traits.get(key))


def stated_rule(traits: Mapping[str, str]) -> Rule:
    """The rule that a text states, for all purposes but combining updates.

    Raises:
        ConfigError: a trait is unknown, has no such value or is missing.
    """
    for key in traits:
        if key not in STATED_TRAITS:
            raise ConfigError(f"rule states the trait '{key}', expected one of {', '.join(STATED_TRAITS)}")
    name = traits.get("name", "")
    if not 0 < len(name) <= _MOST_NAME:
        raise ConfigError(f"name of the stated rule has {len(name)} characters, expected 1 to {_MOST_NAME}")

    def refuse(context: RoundContext) -> NoReturn:
        raise ConfigError(f"rule '{name}' is only stated: in round {context.round} only the server can combine")

    def chosen(key: str, value: str, choices: str) -> Any:
        values = _CHOICES[choices]
        if value not in values:
            raise ConfigError(f"{key} of the stated rule is '{value}', expected one of {', '.join(values)}")
        return values[value]

    frozen = tuple(chosen("frozen", letter, "personal") for letter in traits.get("frozen", ""))
    if len(frozen) > len(Side):
        raise ConfigError(f"frozen of the stated rule names {len(frozen)} sides, expected at most {len(Side)}")
    given = {"subject": "tensors", **{key: value for key, value in traits.items() if key in _CHOICES}}
    return Rule(
        name=name,
        title="at the server",
        computes="what only the server knows",
        algorithm=refuse,
        frozen=frozen,
        **{key: chosen(key, value, key) for key, value in given.items()},
    )


def as_optimizer(part: object, *, name: str) -> ServerOptimizer:
    """A server optimizer of the user's own: a frozen dataclass, or an instance of one."""
    what = f"server optimizer '{name}'"
    part = instance_of(part, what=what)
    if not is_dataclass(part) or isinstance(part, type):
        raise ConfigError(f"{what} is a {type(part).__name__}, expected a frozen dataclass")
    for member in ("name", "needs", "copies", "adjust"):
        if not hasattr(part, member):
            raise ConfigError(f"{what} has no '{member}', expected name, needs, copies and adjust")
    return cast("ServerOptimizer", part)

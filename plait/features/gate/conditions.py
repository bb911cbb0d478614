"""Conditions of a release: a closed list of figures with their units, compared with numbers and joined by ``and``.

A condition on what a run will not measure is refused before it begins. Knows no ledger.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plait.config import RunConfig
from plait.errors import ConfigError, did_you_mean
from plait.traits import Trait

_COMPARISON = re.compile(r"([a-z_]+)\s*(<=|>=|<|>)\s*(\S+)")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_BY_AUDIT = "plait audit RUN --record"


@dataclass(frozen=True)
class Figure:
    """What conditions may be about.

    Attributes:
        lacks: why a run has no such figure; empty if it has.
        measured_by: a command that measures it once the run is over; empty for what a run measures itself.
        is_flag: whether it is yes or no, and stands without a number.
    """

    unit: str
    lacks: Callable[[RunConfig], str] = lambda _: ""
    measured_by: str = ""
    is_flag: bool = False


def _unit(config: RunConfig) -> str:
    """What differential privacy hides as a whole; ``off`` without."""
    return vars(config).get("dp", "off")


def _without_dp(config: RunConfig) -> str:
    return "the run has no differential privacy (dp is off)" if _unit(config) == "off" else ""


def _without_losses(config: RunConfig) -> str:
    return f"with dp {_unit(config)} clients report no losses" if not config.evaluates else ""


def _without_single_losses(config: RunConfig) -> str:
    masked = "the run is masked, so no single client's loss is known" if Trait.TRUSTED in config.gone else ""
    return masked or _without_losses(config)


def _without_attacks(config: RunConfig) -> str:
    other = f"attacks compare losses of sequences, and objective is '{config.objective}'"
    return "" if config.learned.is_plain else other


FIGURES: Mapping[str, Figure] = {
    "epsilon": Figure("what the run has spent, at its delta", _without_dp),
    "delta": Figure("a probability", _without_dp),
    "held_out_loss": Figure("mean after the kept round, nats", _without_losses),
    "gain": Figure("fall of the held-out loss since before round 1, nats", _without_losses),
    "every_client_improves": Figure("every client's held-out loss fell", _without_single_losses, is_flag=True),
    "clients": Figure("fewest updates in a round"),
    "membership_auc": Figure("largest of any attack on members; 0.5 is chance", _without_attacks, _BY_AUDIT),
    "membership_tpr": Figure("largest, at 1 % false positives", _without_attacks, _BY_AUDIT),
    "exposure": Figure("largest mean exposure of canaries, bits", _without_attacks, f"{_BY_AUDIT} --canaries FILE"),
}
"""The closed list."""


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        sign: of the comparison; empty for a figure that is yes or no.
        bound: what the figure is compared with.
    """

    text: str
    figure: str
    sign: str = ""
    bound: float = 0.0

    def holds(self, value: float) -> bool:
        """Whether it holds for a figure."""
        return _OPERATORS[self.sign](value, self.bound) if self.sign else bool(value)

    def is_as_strict_as(self, other: Condition) -> bool:
        """Whether the other one holds wherever this one does, judged from this one alone."""
        if (self.figure, self.sign[:1]) != (other.figure, other.sign[:1]):
            return False
        tighter = self.bound < other.bound if self.sign[:1] == "<" else self.bound > other.bound
        return tighter or (self.bound == other.bound and (self.sign == other.sign or len(self.sign) == 1))


def parsed(text: str) -> tuple[Condition, ...]:
    """The conditions of a text, such as ``epsilon <= 8 and every_client_improves``.

    Raises:
        ConfigError: it is none, names an unknown figure, or two conditions exclude each other.
    """
    found = tuple(_condition(part.strip()) for part in re.split(r"\band\b", text))
    for name in {each.figure for each in found}:
        of_it = [each for each in found if each.figure == name and each.sign]
        above = max((each for each in of_it if each.sign[0] == ">"), key=lambda each: each.bound, default=None)
        if above and not all(
            each.holds(above.bound) and above.holds(each.bound) for each in of_it if each.sign[0] == "<"
        ):
            raise ConfigError(f"release-if is '{text}': no {name} can satisfy all of that")
    return found


def _condition(part: str) -> Condition:
    comparison = _COMPARISON.fullmatch(part)
    name = comparison[1] if comparison else part
    figure = FIGURES.get(name)
    if figure is None:
        known = ", ".join(f"{name} ({each.unit})" for name, each in FIGURES.items())
        raise ConfigError(f"release-if has '{part}'{did_you_mean(name, FIGURES)}; figures are {known}")
    if figure.is_flag != (comparison is None):
        expected = f"'{name}' alone" if figure.is_flag else f"'{name} <= NUMBER'"
        raise ConfigError(f"release-if has '{part}', expected {expected}")
    if comparison is None:
        return Condition(part, name)
    return Condition(part, name, comparison[2], _number(comparison[3], part))


def _number(text: str, part: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"release-if has '{part}', expected a number instead of '{text}'")
    return found


def check(config: Any, *, simulates: bool) -> None:
    """Refuse conditions that a run will not measure.

    Raises:
        ConfigError: with the condition and the reason.
    """
    del simulates
    for condition in parsed(config.release_if):
        if why := FIGURES[condition.figure].lacks(config):
            raise ConfigError(f"release-if has '{condition.text}', but {why}")
    if config.publish:
        raise ConfigError("release-if and publish are both given; give one: publish gives out every round's adapter")

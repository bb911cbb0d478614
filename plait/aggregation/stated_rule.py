"""What a client has to know of a rule that only the server has: its traits, in the text that `--rule` takes.

A rule runs at the server. A client needs only how it trains under it: which sides, which ranks, what may be carried
over. So a welcome names plait's own rules, and of any other states these traits:
``stated:name=my_rules:Mine,subject=tensors,linear=true``. A client that reads them imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeVar

from plait.adapters import Subject
from plait.aggregation.geometry import Side
from plait.aggregation.rule import ANY_RANK, ONE_RANK, UP_TO_SERVER, Resizing, RoundContext, Rule
from plait.errors import ConfigError

STATED = "stated"
"""The name in place of the rule's own."""
STATED_TRAITS = ("name", "subject", "ranks", "resizing", "frozen", "personal", "linear", "continuous")
"""The attributes of a `Rule` that are stated."""

_RANKS = {"one": ONE_RANK, "lower": UP_TO_SERVER, "any": ANY_RANK}
_FLAGS = {"true": True, "false": False}
_MOST_NAME = 200

T = TypeVar("T")


def stated_text(rule: Rule) -> str:
    """A rule as a welcome states it."""
    traits = {
        "name": rule.name,
        "subject": rule.subject.name.lower(),
        "ranks": next(name for name, ranks in _RANKS.items() if ranks == rule.ranks),
        "resizing": rule.resizing.value,
        "frozen": "".join(rule.frozen),
        "personal": rule.personal or "",
        "linear": str(rule.linear).lower(),
        "continuous": str(rule.continuous).lower(),
    }
    return f"{STATED}:" + ",".join(f"{key}={value}" for key, value in traits.items() if value)


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
        raise ConfigError(f"rule '{name}' is only stated in round {context.round}, expected the server to combine")

    sides = {side.value: side for side in Side}
    frozen = tuple(_one(sides, "frozen", letter) for letter in traits.get("frozen", ""))
    if len(frozen) > len(sides):
        raise ConfigError(f"frozen of the stated rule names {len(frozen)} sides, expected at most {len(sides)}")
    return Rule(
        name=name,
        title="at the server",
        computes="what only the server knows",
        algorithm=refuse,
        subject=_one({each.name.lower(): each for each in Subject}, "subject", traits.get("subject", "tensors")),
        ranks=_one(_RANKS, "ranks", traits.get("ranks", "one")),
        resizing=_one({each.value: each for each in Resizing}, "resizing", traits.get("resizing", "slice")),
        frozen=frozen,
        personal=_one(sides, "personal", traits["personal"]) if "personal" in traits else None,
        linear=_one(_FLAGS, "linear", traits.get("linear", "false")),
        continuous=_one(_FLAGS, "continuous", traits.get("continuous", "true")),
    )


def _one(values: Mapping[str, T], key: str, value: str) -> T:
    if value not in values:
        raise ConfigError(f"{key} of the stated rule is '{value}', expected one of {', '.join(values)}")
    return values[value]

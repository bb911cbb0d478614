"""The server optimizers by name, and how a user's settings reach them."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import cast

from plait.aggregation.server_optimizer import ServerOptimizer
from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.known_features import feature_with, features
from plait.places import OnDemand, at
from plait.plugins import Kind, find

OPTIMIZERS: OnDemand[ServerOptimizer] = OnDemand(
    {
        "fedadagrad": "plait.aggregation.fedopt:FEDADAGRAD",
        "fedadam": "plait.aggregation.fedopt:FEDADAM",
        "fedyogi": "plait.aggregation.fedopt:FEDYOGI",
        "line_search": "plait.aggregation.line_search:LINE_SEARCH",
        "nesterov": "plait.aggregation.fedopt:NESTEROV",
        "none": "plait.aggregation.server_optimizer:NONE",
        "sgd": "plait.aggregation.fedopt:SGD",
    }
)
"""The core's by name, in alphabetical order; features have others."""


def optimizer_for(text: str) -> ServerOptimizer:
    """The optimizer that the user asks for.

    Args:
        text: one of `OPTIMIZERS` or of a feature, or with options ``fedadam:lr=0.003,momentum=0.9``; for a user's own
            ``my_rules:Mine`` or the name of an installed one. ``auto`` is resolved by the caller.

    Raises:
        ConfigError: there is no such optimizer or option, or a number is out of range.
    """
    name, options = parse_choice(text)
    optimizer = OPTIMIZERS.get(name)
    if optimizer is None and (feature := feature_with("optimizers", name)):
        optimizer = cast("ServerOptimizer", at(feature.optimizers[name]))
    if optimizer is None:
        known = sorted([*OPTIMIZERS, *(each for feature in features() for each in feature.optimizers)])
        optimizer = as_optimizer(find(Kind.SERVER_OPTIMIZER, name, known=("auto", *known)), name=name)
    return with_options(optimizer, options, what=f"server optimizer '{name}'")


def as_optimizer(part: object, *, name: str) -> ServerOptimizer:
    """A user's own server optimizer: a frozen dataclass, or an instance of one.

    Raises:
        ConfigError: it is something else, or lacks one of the members of `ServerOptimizer`.
    """
    from plait.own_code import instance_of

    what = f"server optimizer '{name}'"
    part = instance_of(part, what=what)
    if not is_dataclass(part) or isinstance(part, type):
        raise ConfigError(f"{what} is a {type(part).__name__}, expected a frozen dataclass")
    for member in ("name", "needs", "copies", "adjust"):
        if not hasattr(part, member):
            raise ConfigError(f"{what} has no '{member}', expected name, needs, copies and adjust")
    return cast("ServerOptimizer", part)

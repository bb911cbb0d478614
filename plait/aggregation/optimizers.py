"""The server optimizers by name, and how a user's settings reach them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import cast

from plait.aggregation.feddyn import FedDynStep
from plait.aggregation.fedexp import FedExp
from plait.aggregation.line_search import LineSearch
from plait.aggregation.product_optimizer import ProductSpace
from plait.aggregation.server_optimizer import Adaptive, Plain, ServerOptimizer, Sgd
from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.plugins import Kind, find, instance_of

OPTIMIZERS: Mapping[str, ServerOptimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Adaptive("fedadagrad"),
        Adaptive("fedadam"),
        FedDynStep(),
        FedExp(),
        Adaptive("fedyogi"),
        LineSearch(),
        Sgd("nesterov", nesterov=True),
        Plain(),
        ProductSpace("product_adam", adaptive=True),
        ProductSpace("product_nesterov", nesterov=True),
        ProductSpace("product_sgd"),
        Sgd(),
    )
}
"""By name, in alphabetical order."""


def optimizer_for(text: str) -> ServerOptimizer:
    """The optimizer that the user asks for.

    Args:
        text: one of `OPTIMIZERS`, or with options ``fedadam:lr=0.003,momentum=0.9``; for a user's own
            ``my_rules:Mine`` or the name of an installed one. ``auto`` is resolved by the caller.

    Raises:
        ConfigError: there is no such optimizer or option, or a number is out of range.
    """
    name, options = parse_choice(text)
    optimizer = OPTIMIZERS.get(name)
    if optimizer is None:
        optimizer = as_optimizer(find(Kind.SERVER_OPTIMIZER, name, known=("auto", *OPTIMIZERS)), name=name)
    return with_options(optimizer, options, what=f"server optimizer '{name}'")


def as_optimizer(part: object, *, name: str) -> ServerOptimizer:
    """A user's own server optimizer: a frozen dataclass, or an instance of one.

    Raises:
        ConfigError: it is something else, or lacks one of the members of `ServerOptimizer`.
    """
    what = f"server optimizer '{name}'"
    part = instance_of(part, what=what)
    if not is_dataclass(part) or isinstance(part, type):
        raise ConfigError(f"{what} is a {type(part).__name__}, expected a frozen dataclass")
    for member in ("name", "needs", "copies", "adjust"):
        if not hasattr(part, member):
            raise ConfigError(f"{what} has no '{member}', expected name, needs, copies and adjust")
    return cast("ServerOptimizer", part)

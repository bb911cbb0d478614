"""Aggregation rules, by families; server optimizers; how far a round was off."""

from plait.aggregation.diagnostics import Diagnostics, Observer
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, Side, geometry_of, slices_of
from plait.aggregation.low_rank import LowRank
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
    Resizing,
    RoundContext,
    Rule,
    Traffic,
)
from plait.aggregation.server_step import OPTIMIZERS, OptimizerState, ServerOptimizer, optimizer_for
from plait.aggregation.table import (
    RULES,
    check_rule,
    method_stated,
    optimizer_stated,
    rule_named,
    rule_stated,
    rules_for,
)

__all__ = [
    "ANY_RANK",
    "BOTH_SIDES",
    "ONE_RANK",
    "OPTIMIZERS",
    "RULES",
    "UP_TO_SERVER",
    "Accumulator",
    "Algorithm",
    "Contribution",
    "Diagnostics",
    "Exactness",
    "Geometry",
    "LowRank",
    "Memory",
    "Observer",
    "OptimizerState",
    "Outcome",
    "Pair",
    "Resizing",
    "RoundContext",
    "Rule",
    "ServerOptimizer",
    "Side",
    "Traffic",
    "check_rule",
    "geometry_of",
    "method_stated",
    "optimizer_for",
    "optimizer_stated",
    "rule_named",
    "rule_stated",
    "rules_for",
    "slices_of",
]

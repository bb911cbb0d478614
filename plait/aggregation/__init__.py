"""Aggregation rules, one per file; server optimizers; how far a round was off."""

from plait.aggregation.contribution import ANY_RANK, ONE_RANK, UP_TO_SERVER, Contribution
from plait.aggregation.diagnostics import Diagnostics, Observer
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, Side, geometry_of, slices_of
from plait.aggregation.low_rank import LowRank
from plait.aggregation.optimizers import OPTIMIZERS, optimizer_for
from plait.aggregation.requirements import check_rule, method_stated, optimizer_stated, rule_stated, rules_for
from plait.aggregation.round import Accumulator, Memory, Outcome, RoundContext
from plait.aggregation.rule import Algorithm, Exactness, Resizing, Rule
from plait.aggregation.server_optimizer import OptimizerState, ServerOptimizer
from plait.aggregation.table import RULES, rule_named
from plait.aggregation.traffic import Traffic

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

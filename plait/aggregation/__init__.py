"""Aggregation rules, one per file, with the table of their names; server optimizers, and how far a round was off."""

from collections.abc import Mapping

from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.contribution import ANY_RANK, Contribution
from plait.aggregation.diagnostics import Diagnostics, Observer
from plait.aggregation.fedavg import FedAvg
from plait.aggregation.fedex import FedEx
from plait.aggregation.fedrot import FedRot
from plait.aggregation.fedsa import FedSa
from plait.aggregation.fedsb import FedSb
from plait.aggregation.fedsvd import FedSvd
from plait.aggregation.ffa import Ffa
from plait.aggregation.flexlora import FlexLora
from plait.aggregation.flora import Flora
from plait.aggregation.florist import Florist
from plait.aggregation.geometric_median import GeometricMedian
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, Side, geometry_of
from plait.aggregation.hetlora import HetLora
from plait.aggregation.lora_fair import LoraFair
from plait.aggregation.low_rank import LowRank
from plait.aggregation.median import Median
from plait.aggregation.movement import check_movement
from plait.aggregation.optimizers import OPTIMIZERS, optimizer_for
from plait.aggregation.product_mean import ProductMean
from plait.aggregation.projection import fitted
from plait.aggregation.raflora import RaFlora
from plait.aggregation.rbla import Rbla
from plait.aggregation.requirements import check_rule
from plait.aggregation.rolora import RoLora
from plait.aggregation.rule import (
    Accumulator,
    Exactness,
    Handing,
    Memory,
    Outcome,
    RoundContext,
    Rule,
    Subject,
    rule_named,
    turns,
)
from plait.aggregation.server_optimizer import OptimizerMemory, ServerOptimizer, check_composition
from plait.aggregation.traffic import Traffic
from plait.aggregation.trimmed_mean import TrimmedMean
from plait.aggregation.zero_pad import ZeroPad

_ALL: tuple[Rule, ...] = (
    FedAvg(),
    FedEx(),
    FedRot(),
    FedSa(),
    FedSb(),
    FedSvd(),
    Ffa(),
    FlexLora(),
    Flora(),
    Florist(),
    GeometricMedian(),
    HetLora(),
    LoraFair(),
    Median(),
    ProductMean(),
    RaFlora(),
    Rbla(),
    RoLora(),
    TrimmedMean(),
    ZeroPad(),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in sorted(_ALL, key=lambda rule: rule.name)}

__all__ = [
    "ANY_RANK",
    "BOTH_SIDES",
    "OPTIMIZERS",
    "RULES",
    "Accumulator",
    "BaseDelta",
    "Contribution",
    "Diagnostics",
    "Exactness",
    "Geometry",
    "Handing",
    "LowRank",
    "Memory",
    "Observer",
    "OptimizerMemory",
    "Outcome",
    "Pair",
    "RoundContext",
    "Rule",
    "ServerOptimizer",
    "Side",
    "Subject",
    "Traffic",
    "check_composition",
    "check_movement",
    "check_rule",
    "fitted",
    "geometry_of",
    "optimizer_for",
    "rule_named",
    "turns",
]

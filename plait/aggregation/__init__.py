"""Aggregation rules, one per file, and the table of them; server optimizers; how far a round was off."""

from collections.abc import Mapping

from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.contribution import ANY_RANK, ONE_RANK, UP_TO_SERVER, Contribution
from plait.aggregation.diagnostics import Diagnostics, Observer
from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.fedex import FEDEX
from plait.aggregation.fedrot import FEDROT
from plait.aggregation.fedsa import FEDSA
from plait.aggregation.fedsb import FEDSB
from plait.aggregation.fedsvd import FEDSVD
from plait.aggregation.ffa import FFA
from plait.aggregation.flexlora import FLEXLORA
from plait.aggregation.flora import FLORA
from plait.aggregation.florist import FLORIST
from plait.aggregation.geometric_median import GEOMETRIC_MEDIAN
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, Side, geometry_of
from plait.aggregation.hetlora import HETLORA
from plait.aggregation.lora_fair import LORA_FAIR
from plait.aggregation.low_rank import LowRank
from plait.aggregation.median import MEDIAN
from plait.aggregation.optimizers import OPTIMIZERS, optimizer_for
from plait.aggregation.product_mean import PRODUCT_MEAN
from plait.aggregation.projection import fitted
from plait.aggregation.raflora import RAFLORA
from plait.aggregation.rbla import RBLA
from plait.aggregation.requirements import check_rule
from plait.aggregation.rolora import ROLORA
from plait.aggregation.round import Accumulator, Memory, Outcome, RoundContext
from plait.aggregation.rule import Algorithm, Exactness, Handing, Rule, Subject, rule_named
from plait.aggregation.server_optimizer import OptimizerMemory, ServerOptimizer, check_composition
from plait.aggregation.traffic import Traffic
from plait.aggregation.trimmed_mean import TRIMMED_MEAN
from plait.aggregation.zero_pad import ZEROPAD

RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        FEDAVG,
        FEDEX,
        FEDROT,
        FEDSA,
        FEDSB,
        FEDSVD,
        FFA,
        FLEXLORA,
        FLORA,
        FLORIST,
        GEOMETRIC_MEDIAN,
        HETLORA,
        LORA_FAIR,
        MEDIAN,
        PRODUCT_MEAN,
        RAFLORA,
        RBLA,
        ROLORA,
        TRIMMED_MEAN,
        ZEROPAD,
    )
}
"""By name, in alphabetical order."""

__all__ = [
    "ANY_RANK",
    "BOTH_SIDES",
    "ONE_RANK",
    "OPTIMIZERS",
    "RULES",
    "UP_TO_SERVER",
    "Accumulator",
    "Algorithm",
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
    "check_rule",
    "fitted",
    "geometry_of",
    "optimizer_for",
    "rule_named",
]

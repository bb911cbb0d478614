"""The table of rules, and the way from a name to a rule. To add one to plait, add its file and a line here."""

from __future__ import annotations

from collections.abc import Mapping

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
from plait.aggregation.hetlora import HETLORA
from plait.aggregation.lora_fair import LORA_FAIR
from plait.aggregation.median import MEDIAN
from plait.aggregation.optimizers import OPTIMIZERS
from plait.aggregation.own_rule import as_rule
from plait.aggregation.product_mean import PRODUCT_MEAN
from plait.aggregation.raflora import RAFLORA
from plait.aggregation.rbla import RBLA
from plait.aggregation.rolora import ROLORA
from plait.aggregation.rule import Rule
from plait.aggregation.stated_rule import STATED, stated_rule
from plait.aggregation.trimmed_mean import TRIMMED_MEAN
from plait.aggregation.zero_pad import ZEROPAD
from plait.choice import parse_choice
from plait.correction import CORRECTIONS
from plait.errors import ConfigError
from plait.plugins import Kind, find

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


def rule_named(text: str, rules: Mapping[str, Rule]) -> Rule:
    """The requested rule.

    Args:
        text: as ``--rule`` takes it: ``fedavg``, or with options ``trimmed_mean:share=0.1``; ``my_rules:Mine`` or the
            name of an installed one for a user's own.
        rules: plait's own, by name.

    Raises:
        ConfigError: there is no such rule, it cannot be imported, it has no such option, or a value is out of range.
    """
    name, options = parse_choice(text)
    if name == STATED:
        return stated_rule(options)
    if name not in rules and name in CORRECTIONS:
        raise ConfigError(f"rule is '{name}', which corrects clients' steps: give --correction {name}")
    if name not in rules and name in OPTIMIZERS:
        raise ConfigError(f"rule is '{name}', which is a server optimizer: give --server-optimizer {name}")
    rule = rules.get(name) or as_rule(find(Kind.RULE, name, known=rules), name=name)
    return rule.with_options(options) if options else rule

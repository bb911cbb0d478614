"""The table of rules, and the way from a name to a rule. To add one to plait, add its file and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from plait.aggregation.optimizers import OPTIMIZERS
from plait.aggregation.rule import Rule
from plait.choice import parse_choice
from plait.errors import ConfigError
from plait.places import OnDemand
from plait.plugins import Kind, find

RULES: OnDemand[Rule] = OnDemand(
    {
        "fedavg": "plait.aggregation.fedavg:FEDAVG",
        "fedsa": "plait.aggregation.fedsa:FEDSA",
        "fedsb": "plait.aggregation.fedsb:FEDSB",
        "fedsvd": "plait.aggregation.fedsvd:FEDSVD",
        "ffa": "plait.aggregation.ffa:FFA",
        "flexlora": "plait.aggregation.flexlora:FLEXLORA",
        "geometric_median": "plait.aggregation.geometric_median:GEOMETRIC_MEDIAN",
        "hetlora": "plait.aggregation.hetlora:HETLORA",
        "median": "plait.aggregation.median:MEDIAN",
        "raflora": "plait.aggregation.raflora:RAFLORA",
        "rbla": "plait.aggregation.rbla:RBLA",
        "rolora": "plait.aggregation.rolora:ROLORA",
        "trimmed_mean": "plait.aggregation.trimmed_mean:TRIMMED_MEAN",
        "zeropad": "plait.aggregation.zero_pad:ZEROPAD",
    }
)
"""By name, in alphabetical order."""

# What other systems call strategies as well.
_CORRECT_STEPS = ("feddyn", "fedprox", "scaffold")


def rule_named(text: str, rules: Mapping[str, Rule]) -> Rule:
    """The requested rule.

    Args:
        text: as ``--rule`` takes it: ``fedavg``, or with options ``trimmed_mean:share=0.1``; ``my_rules:Mine`` or the
            name of an installed one for a user's own.

    Raises:
        ConfigError: there is no such rule, it cannot be imported, it has no such option, or a value is out of range.
    """
    name, options = parse_choice(text)
    rule = rules.get(name)
    if rule is None and name == "stated":
        from plait.aggregation.stated_rule import stated_rule

        return stated_rule(options)
    if rule is None and name in _CORRECT_STEPS:
        raise ConfigError(f"rule is '{name}', which corrects clients' steps: give --correction {name}")
    if rule is None and name in OPTIMIZERS:
        raise ConfigError(f"rule is '{name}', which is a server optimizer: give --server-optimizer {name}")
    if rule is None:
        from plait.aggregation.own_rule import as_rule

        rule = as_rule(find(Kind.RULE, name, known=rules), name=name)
    return rule.with_options(options) if options else rule

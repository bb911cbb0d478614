"""A rule that only the server has, as its clients know it."""

from dataclasses import replace

import pytest

from plait.aggregation import RULES, rule_named
from plait.aggregation.stated_rule import stated_text
from plait.errors import ConfigError
from plait.flower import ALL_RULES

SEEN = ["name", "subject", "ranks", "resizing", "frozen", "personal", "linear", "continuous"]


@pytest.mark.parametrize("name", ALL_RULES)
def test_a_client_knows_all_that_it_needs_of_a_rule(name):
    rule = replace(ALL_RULES[name], name="my_rules:outer.<locals>.mine")
    stated = rule_named(stated_text(rule), RULES)
    assert {key: getattr(stated, key) for key in SEEN} == {key: getattr(rule, key) for key in SEEN}
    for number in (1, 2, 3):
        assert stated.trained(number) == rule.trained(number)
    for one_rank in (True, False):
        assert stated.new_factors(one_rank=one_rank) == rule.new_factors(one_rank=one_rank)


def test_a_stated_rule_combines_nothing(lab):
    import numpy as np

    rule = rule_named("stated:name=theirs,subject=tensors", RULES)
    with pytest.raises(ConfigError, match="only stated in round 1"):
        rule.begin(lab.context(lab.geometry(), np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stated", "0 characters"),
        ("stated:name=x,subject=os", "subject of the stated rule is 'os'"),
        ("stated:name=x,linear=yes", "linear of the stated rule is 'yes'"),
        ("stated:name=x,frozen=C", "frozen of the stated rule is 'C'"),
        ("stated:name=x,frozen=" + "AB" * 1000, "names 2000 sides"),
        ("stated:name=x,ranks=all", "ranks"),
        ("stated:name=x,personal=AB", "personal"),
        ("stated:name=x,algorithm=os.system", "trait 'algorithm'"),
        ("stated:name=" + "x" * 1000, "1000 characters"),
    ],
)
def test_a_trait_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        rule_named(text, RULES)

"""The rules that the pages show pass the check that the pages name, `plait check-plugin`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import plait
from plait.aggregation import Rule
from plait.aggregation.contract import RULE_CHECKS
from plait.own_code import checked

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["docs/guides/own-rule.md"])
def test_a_rule_of_a_page_breaks_no_claim(page: str) -> None:
    shown = re.search(r"^@plait\.rule.*?^    return .*?$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert shown
    names: dict[str, object] = {"__name__": "my_rules", "np": np, "plait": plait}
    exec(shown[0], names)
    rule = names["median_of_means"]
    assert isinstance(rule, Rule)
    assert [each.claim for each in checked(rule, RULE_CHECKS) if each.holds is False] == []

"""The rules that the pages show are as the pages say, and their tests pass."""

import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import plait
from plait.aggregation import RULES, Rule
from plait.aggregation.contract import RULE_CHECKS
from plait.own_code import checked
from tests.plait.aggregation import conftest as lab

ROOT = Path(__file__).parents[1]


def broken(rule: Rule) -> list[str]:
    return [each.claim for each in checked(rule, RULE_CHECKS) if each.holds is False]


def test_a_rule_outside_plait_breaks_no_claim():
    page = (ROOT / "docs/guides/own-rule.md").read_text()
    shown = re.search(r"^@plait\.rule.*?^    return .*?$", page, re.DOTALL | re.MULTILINE)
    assert shown
    names: dict[str, object] = {"__name__": "my_rules", "np": np, "plait": plait}
    exec(shown[0], names)
    rule = names["median_of_means"]
    assert isinstance(rule, Rule)
    assert broken(rule) == []


def test_a_rule_inside_plait_takes_a_file_a_line_in_the_table_and_a_test(monkeypatch):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    made, entry, test = re.findall(r"^```python\n# [^\n]+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    table: dict[str, Any] = {"Mapping": Mapping, "Rule": Rule}
    exec(f"from __future__ import annotations\n{entry}", table)
    module = types.ModuleType("plait.aggregation.clipped_mean")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(made, vars(module))
    name = "clipped_mean"
    monkeypatch.setitem(RULES.loaders, name, table["_clipped_mean"])
    assert broken(RULES[name]) == []
    names: dict[str, object] = {}
    exec(test, names)
    (claim,) = (each for name, each in names.items() if name.startswith("test_"))
    claim(lab)  # type: ignore[operator]

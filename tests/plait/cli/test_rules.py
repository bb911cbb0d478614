from __future__ import annotations

import json

from plait.aggregation import RULES
from plait.flower import FLOWER_RULES


def listed(plait, *options):
    ran = plait("simulate", "--rule", "list", "--base", "tiny", *options, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_every_rule_is_listed_once_with_what_it_computes(plait) -> None:
    report = listed(plait, "--rank", 4)
    assert [entry["rule"] for entry in report["rules"]] == sorted([*RULES, *FLOWER_RULES])
    assert all(entry["computes"] and entry["paper"] for entry in report["rules"])

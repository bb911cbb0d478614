from __future__ import annotations

import json

from plait.aggregation import RULES
from plait.flower.rule_table import FLOWER_RULES


def listed(plait, *options):
    ran = plait("simulate", "--rule", "list", "--base", "tiny", *options, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def by_name(report):
    return {entry["rule"]: entry for entry in report["rules"]}


def test_every_rule_is_listed_once_with_what_it_computes(plait) -> None:
    report = listed(plait, "--rank", 4)
    assert [entry["rule"] for entry in report["rules"]] == sorted([*RULES, *FLOWER_RULES])
    assert all(entry["computes"] and entry["paper"] for entry in report["rules"])


def test_bytes_follow_from_the_base_and_the_rank(plait) -> None:
    report = listed(plait, "--rank", 4, "--target-modules", "q_proj")
    # tiny: 128 wide, with as many q_proj as layers.
    size, rules = report["adapter_parameters"], by_name(report)
    assert size % (4 * 2 * 128) == 0
    layers = size // (4 * 2 * 128)
    expected = {
        "fedavg": (size, size),
        "ffa": (size / 2, size / 2),
        "rolora": (size / 2, size / 2),
        "fedsa": (size / 2, size / 2),
        "fedsvd": (size / 2, size),
        "fedsb": (16 * layers, 16 * layers),
    }
    for name, traffic in expected.items():
        assert (rules[name]["uplink_parameters"], rules[name]["downlink_parameters"]) == traffic
        assert (rules[name]["uplink_bytes_fp32"], rules[name]["downlink_bytes_fp32"]) == tuple(4 * n for n in traffic)

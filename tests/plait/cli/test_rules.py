"""Every rule is listed, and teaches a real model at the default wire: one bit per parameter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.aggregation import RULES
from plait.flower import FLOWER_RULES

RUN = ("--partition", "natural:author", "--clients", 3, "--rounds", 4, "--eval-every", 4, "--json")


@pytest.fixture
def learned(plait, small: tuple[str, ...], jsonl: Path, tmp_path: Path) -> Callable[..., float]:
    """The nats that a short run with such options gains."""

    def run(*options: object) -> float:
        ran = plait("simulate", *small, *RUN, "--data", jsonl, "--out", tmp_path / "run", *options)
        assert ran.code == 0, ran.err
        summary = json.loads(ran.out)
        return summary["base_held_out_loss"] - summary["final_held_out_loss"]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_at_the_default_wire_from_mixed_ranks_if_it_takes_them(learned, name: str) -> None:
    method, least = ("lora_xs", 0.05) if name == "fedsb" else ("lora", 0.7)
    ranks = ("--client-ranks", "1,2") if RULES[name].mixed_ranks else ()
    assert learned("--rule", name, "--method", method, *ranks) > least


def listed(plait, *options):
    ran = plait("simulate", "--rule", "list", "--base", "tiny", *options, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_every_rule_is_listed_once_with_what_it_computes(plait) -> None:
    report = listed(plait, "--rank", 4)
    assert [entry["rule"] for entry in report["rules"]] == sorted([*RULES, *FLOWER_RULES])
    assert all(entry["computes"] and entry["paper"] for entry in report["rules"])

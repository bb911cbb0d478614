"""Every rule teaches a real model at the default wire: one bit per parameter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.aggregation import RULES

RUN = ("--partition", "natural:author", "--clients", 3, "--rounds", 4, "--eval-every", 4, "--json")
MIXED = [name for name, rule in RULES.items() if rule.mixed_ranks]


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
def test_every_rule_learns_at_the_default_wire(learned, name: str) -> None:
    method, least = ("lora_xs", 0.05) if name == "fedsb" else ("lora", 0.7)
    assert learned("--rule", name, "--method", method) > least


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXED)
def test_every_rule_for_mixed_ranks_learns_at_the_default_wire(learned, name: str) -> None:
    assert learned("--rule", name, "--client-ranks", "1,2") > 0.7

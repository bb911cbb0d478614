"""Every rule is listed; every rule and method teaches a real model at the default wire: one bit per parameter."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from plait.adapters.methods import METHODS
from plait.aggregation import RULES
from plait.flower import FLOWER_RULES
from plait.training.bases import locate_base

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
def test_every_rule_learns_at_the_default_wire_from_mixed_ranks_if_it_takes_them(learned, name):
    method, least = ("lora_xs", 0.05) if name == "fedsb" else ("lora", 0.7)
    ranks = ("--client-ranks", "1,2") if RULES[name].mixed_ranks else ()
    assert learned("--rule", name, "--method", method, *ranks) > least


# PEFT still hands its prefix over under a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.extra("qlora")) if method.quantised else name
        for name, method in METHODS.items()
    ],
)
def test_every_method_learns_at_the_default_wire_and_leaves_what_plain_peft_loads(learned, method, tmp_path):
    assert learned("--method", method) > 0
    base = AutoModelForCausalLM.from_pretrained(locate_base("tiny").directory, trust_remote_code=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # VeRA: its matrices come from a seed
        PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")


def listed(plait, *options):
    ran = plait("simulate", "--rule", "list", "--base", "tiny", *options, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_every_rule_is_listed_once_with_what_it_computes(plait):
    report = listed(plait, "--rank", 4)
    assert [entry["rule"] for entry in report["rules"]] == sorted([*RULES, *FLOWER_RULES])
    assert all(entry["computes"] and entry["paper"] for entry in report["rules"])

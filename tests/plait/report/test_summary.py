from __future__ import annotations

import json

import pytest

from plait.report.summary import summarise
from tests.plait.conftest import view_of

# ann goes from 3 to 2.5, bob from 5 to 3.5.
FAIRNESS = {
    "mean_loss": 3.0,
    "spread": 0.5,
    "worst_client": "bob",
    "worst_loss": 3.5,
    "least_gaining_client": "ann",
    "least_gain": 0.5,
    "worse_off": 0,
}


def test_the_keys_are_the_same_from_the_first_event_on(small_run) -> None:
    assert len({tuple(summarise(view_of(small_run[:length]))) for length in range(1, len(small_run) + 1)}) == 1


def test_every_number_follows_by_hand(small_run) -> None:
    summary = summarise(view_of(small_run))
    up = (20 + 20) + (3000 + 4000 + 50) + (3000 + 4000)
    down = (10 + 10) + (1000 + 2000 + 100) + (1000 + 2000)
    client_rounds = 2 * 2
    assert summary == {
        "base_held_out_loss": 4.0,
        "base_held_out_loss_interval": None,
        "final_held_out_loss": 3.0,
        "final_held_out_loss_interval": None,
        "better_than_base": True,
        "gain": None,
        "gain_interval": None,
        "held_out_loss_by_round": [4.0, 3.5, 3.0],
        "held_out_loss_by_client": {"ann": 2.5, "bob": 3.5},
        "own_held_out_loss": None,
        "own_held_out_loss_interval": None,
        "own_gain": None,
        "own_gain_interval": None,
        "own_held_out_loss_by_client": {},
        "reference_held_out_loss": {"central": 2.9},
        "held_out_sequences": 4,
        "reference_loss_everywhere": {"central": None},
        "fairness": FAIRNESS,
        "rounds": 2,
        "learning_rate": None,
        "kept_round": None,
        "steps_taken_back": [],
        "clients": 2,
        "dp_audit_bound": None,
        "membership": None,
        "trainable_parameters": 1000,
        "full_model_bytes": 4_000_000,
        "uplink_bytes": up,
        "downlink_bytes": down,
        "uplink_bytes_per_client_round": up / client_rounds,
        "downlink_bytes_per_client_round": down / client_rounds,
        "savings_vs_full_model": pytest.approx(4_000_000 * 2 * client_rounds / (up + down)),
        "savings_vs_fp32_adapter": pytest.approx(4 * 1000 * 2 * client_rounds / (up + down)),
        "savings_vs_bf16_adapter": pytest.approx(2 * 1000 * 2 * client_rounds / (up + down)),
        "savings_vs_8bit_adapter": pytest.approx(1000 * 2 * client_rounds / (up + down)),
        "savings_vs_4bit_adapter": pytest.approx(500 * 2 * client_rounds / (up + down)),
        "train_tokens_per_s": 800 / 8,
        "wall_s": 77.0,
        "virtual_s": None,
        "virtual_s_by_round": None,
        "peak_rss_bytes": 1_500_000_000,
        "seed": 7,
        "versions": {"plait": "0.1.0", "python": "3.11"},
    }


def test_own_adapters_stand_beside_the_shared_one(run_with_own) -> None:
    summary = summarise(view_of(run_with_own(2.25, {"ann": 2.0, "bob": 2.5})))
    assert summary["final_held_out_loss"] == 3.0
    assert summary["own_held_out_loss"] == 2.25
    assert summary["own_held_out_loss_by_client"] == {"ann": 2.0, "bob": 2.5}


def test_losses_and_gains_have_their_intervals_where_they_are_known(run_with_margins) -> None:
    summary = summarise(view_of(run_with_margins))
    assert summary["base_held_out_loss_interval"] == [3.5, 4.5]
    assert summary["final_held_out_loss_interval"] == [2.5, 3.5]
    assert (summary["gain"], summary["gain_interval"]) == (1.0, [0.875, 1.125])


def test_a_round_that_was_not_evaluated_leaves_a_gap(small_run) -> None:
    events = [event for event in small_run if not (event["event"] == "evaluated" and event["round"] == 1)]
    assert summarise(view_of(events))["held_out_loss_by_round"] == [4.0, None, 3.0]


def test_a_run_that_has_only_begun_has_no_numbers_but_is_json(small_run) -> None:
    summary = summarise(view_of(small_run[:1]))
    assert summary["final_held_out_loss"] is None
    assert summary["savings_vs_full_model"] is None
    assert summary["uplink_bytes"] == 0
    json.dumps(summary, allow_nan=False)


def test_labels_add_accuracies(small_run) -> None:
    base = {**small_run[0]["base"], "task": "classification"}
    events = [{**small_run[0], "base": base}]
    for number, accuracy in ((0, 0.25), (1, 0.75)):
        by_client = {"ann": {"loss": 1.0, "accuracy": accuracy}, "bob": {"loss": 1.0, "accuracy": accuracy}}
        events.append(
            {"event": "evaluated", "round": number, "loss": 1.0, "accuracy": accuracy, "by_client": by_client}
        )
    events[-1]["accuracy_interval"] = [0.5, 0.875]
    events[-1]["own"] = {"loss": 0.9, "accuracy": 0.5, "by_client": {"ann": {"loss": 0.9, "accuracy": 0.5}}}
    events.append({"event": "reference", "kind": "central", "held_out_loss": 0.5, "accuracy": 0.875})
    summary, plain = summarise(view_of(events)), summarise(view_of(small_run))
    assert {key: value for key, value in summary.items() if key not in plain} == {
        "base_held_out_accuracy": 0.25,
        "base_held_out_accuracy_interval": None,
        "final_held_out_accuracy": 0.75,
        "final_held_out_accuracy_interval": [0.5, 0.875],
        "held_out_accuracy_by_round": [0.25, 0.75],
        "held_out_accuracy_by_client": {"ann": 0.75, "bob": 0.75},
        "own_held_out_accuracy": 0.5,
        "own_held_out_accuracy_interval": None,
        "own_held_out_accuracy_by_client": {"ann": 0.5},
        "reference_held_out_accuracy": {"central": 0.875},
    }

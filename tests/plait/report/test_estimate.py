from __future__ import annotations

import math

import pytest

from plait.errors import ConfigError
from plait.report.estimate import CostEstimate, CostInputs, estimate_tables, recommended_rank
from plait.report.summary import summarise
from tests.plait.conftest import view_of


def inputs(**changed: object) -> CostInputs:
    settings: dict[str, object] = {
        "trainable_parameters": 1001,
        "full_model_parameters": 1_000_000,
        "clients": 20,
        "clients_per_round": 2,
        "rounds": 10,
    }
    return CostInputs(**{**settings, **changed})


def test_flowertunes_published_bytes_for_mistral_7b_are_reproduced() -> None:
    """FlowerTune publishes 40.7 GB for Mistral-7B-v0.3: r=32 on q_proj and v_proj, 200 rounds, 2 of 20 clients.

    Its tracker adds up the bytes of arrays in both directions and divides by 1024**2, so the published figure is in
    binary gigabytes. Arrays alone make 43.62e9 bytes = 40.63 GiB; with the .npy header (128 bytes) and the name that
    Flower keeps beside each of the 128 arrays, 40.64 GiB: 0.15 % below what is published.
    """
    layers, hidden, key_value = 32, 4096, 1024
    # A is (32, d_in) and B is (d_out, 32).
    parameters = layers * 32 * ((hidden + hidden) + (hidden + key_value))
    assert parameters == 13_631_488
    names = [
        f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{factor}.weight"
        for layer in range(layers)
        for module in ("q_proj", "v_proj")
        for factor in "AB"
    ]
    estimate = CostEstimate(
        CostInputs(
            trainable_parameters=parameters,
            full_model_parameters=7_248_023_552,
            clients=20,
            clients_per_round=2,
            rounds=200,
            overhead_bytes=sum(128 + len(name) for name in names),
        )
    )
    published_bytes = 40.7 * 1024**3
    assert estimate.sent_bytes == pytest.approx(published_bytes, rel=0.005)
    assert 800 * 4 * parameters == pytest.approx(published_bytes, rel=0.005)
    # No other reading of "GB" comes near.
    assert estimate.sent_bytes != pytest.approx(40.7e9, rel=0.05)
    assert estimate.sent_bytes != pytest.approx(40.7e3 * 1024**2, rel=0.02)


def test_bytes_are_bits_times_parameters_rounded_up_and_overhead_once_a_message() -> None:
    estimate = CostEstimate(inputs(bits_up=1.5, bits_down=16, overhead_bytes=100))
    up, down = math.ceil(1001 * 1.5 / 8) + 100, 1001 * 2 + 100
    numbers = estimate.to_json()
    assert numbers["uplink_bytes_per_client_round"] == up
    assert numbers["downlink_bytes_per_client_round"] == down
    assert numbers["uplink_bytes_per_round"] == 2 * up
    assert numbers["uplink_bytes"] == 20 * up
    assert numbers["downlink_bytes"] == 20 * down
    assert numbers["savings_vs_full_model"] == pytest.approx(4_000_000 * 2 * 20 / (20 * (up + down)))
    assert numbers["savings_vs_fp32_adapter"] == pytest.approx(4 * 1001 * 2 / (up + down))


def test_an_evaluating_client_gets_the_adapter_once_a_round_and_two_messages() -> None:
    estimate = CostEstimate(inputs(evaluating_clients=20, overhead_bytes=10))
    assert estimate.downlink_bytes_per_round == 20 * 4 * 1001 + (2 + 20) * 10
    assert estimate.uplink_bytes_per_round == 2 * 4 * 1001 + (2 + 20) * 10


def test_times_follow_from_bandwidth_and_speed_and_are_none_without() -> None:
    estimate = CostEstimate(
        inputs(bandwidth_up_bps=1e6, bandwidth_down_bps=8e6, tokens_per_client_round=2048, train_tokens_per_s=256)
    )
    assert estimate.uplink_s_per_client_round == pytest.approx(8 * 4004 / 1e6)
    assert estimate.downlink_s_per_client_round == pytest.approx(4004 / 1e6)
    assert estimate.train_s_per_client_round == 8
    assert estimate.to_json()["train_tokens"] == 2048 * 20
    bare = CostEstimate(inputs()).to_json()
    assert bare["uplink_s_per_client_round"] is bare["train_s_per_client_round"] is bare["train_tokens"] is None


def test_what_a_run_measures_too_has_the_same_name(small_run) -> None:
    shared = {
        "rounds", "clients", "trainable_parameters", "full_model_bytes", "uplink_bytes", "downlink_bytes",
        "uplink_bytes_per_client_round", "downlink_bytes_per_client_round", "savings_vs_full_model",
        "savings_vs_fp32_adapter", "savings_vs_bf16_adapter", "savings_vs_8bit_adapter", "savings_vs_4bit_adapter",
        "virtual_s",
    }  # fmt: skip
    assert set(summarise(view_of(small_run))) & set(CostEstimate(inputs()).to_json()) == shared


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clients_per_round": 21}, "clients_per_round is 21, expected 0 to clients = 20"),
        ({"evaluating_clients": 21}, "evaluating_clients is 21"),
        ({"rounds": 0}, "rounds is 0, expected at least 1"),
        ({"bits_up": 0}, "bits_up is 0, expected a number above 0"),
        ({"bandwidth_down_bps": math.inf}, "bandwidth_down_bps is inf"),
        ({"overhead_bytes": -1}, "overhead_bytes is -1"),
    ],
)
def test_impossible_plans_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inputs(**changed)


def test_the_tables_hold_cost_and_comparison() -> None:
    cost, comparison = estimate_tables(CostEstimate(inputs(tokens_per_client_round=2048, bandwidth_up_bps=1e6)))
    assert cost.title == "10 rounds, 2 of 20 clients in each"
    assert cost.rows[0] == ("uplink", "32", "4.00 kB", "8.01 kB", "80.1 kB", "32 ms")
    assert "2,048 tokens per round" in cost.note
    assert comparison.rows[0][0] == "this plan"


def test_a_client_holds_the_base_in_two_bytes_and_every_trained_parameter_in_twenty() -> None:
    master = kept_step = first_moment = second_moment = 4
    in_the_model = its_gradient = 2
    of_each = master + kept_step + first_moment + second_moment + in_the_model + its_gradient
    estimate = CostEstimate(inputs()).to_json()
    assert estimate["client_base_memory_bytes"] == 2 * 1_000_000
    assert estimate["client_adapter_memory_bytes"] == of_each * 1001
    corrected = CostEstimate(inputs(training_copies=2)).to_json()
    assert corrected["client_adapter_memory_bytes"] == (of_each + 2 * 4) * 1001


@pytest.mark.parametrize(
    ("tokens", "rank"),
    # 1000 parameters a rank hold 2,000 bits, a token teaches one.
    [(0, 8), (16_000, 8), (16_001, 16), (32_000, 16), (100_000, 64), (10**9, 256)],
)
def test_the_rank_that_is_recommended_holds_what_is_taught(tokens: int, rank: int) -> None:
    assert recommended_rank(parameters_per_rank=1000, train_tokens=tokens) == rank


def test_a_rank_is_recommended_where_tokens_and_factors_are_known() -> None:
    estimate = CostEstimate(inputs(tokens_per_client_round=2000, parameters_per_rank=1000))
    assert estimate.to_json()["recommended_rank"] == 32
    assert "Rank 32 has the capacity for 40,000 tokens in total." in estimate_tables(estimate)[0].note
    for asked, said in (
        (16, "Rank 16 lacks the capacity for 40,000 tokens in total; rank 32 has it."),
        (64, "Rank 64 has the capacity for 40,000 tokens in total."),
    ):
        asking = CostEstimate(inputs(tokens_per_client_round=2000, parameters_per_rank=1000, rank=asked))
        assert said in estimate_tables(asking)[0].note
    assert CostEstimate(inputs(tokens_per_client_round=2000)).to_json()["recommended_rank"] is None
    assert CostEstimate(inputs(parameters_per_rank=1000)).to_json()["recommended_rank"] is None


def test_a_base_in_four_bits_takes_a_quarter_of_one_in_bfloat16() -> None:
    assert CostEstimate(inputs(base_bits=4)).to_json()["client_base_memory_bytes"] == 500_000
    assert "base in four bits, 500 kB" in estimate_tables(CostEstimate(inputs(base_bits=4)))[0].note


def test_the_time_of_training_is_told_for_every_device_of_the_catalogue() -> None:
    given = inputs(tokens_per_client_round=2000, catalogue=(("phone", 100.0), ("card", 4000.0)))
    *_, times = estimate_tables(CostEstimate(given))
    assert times.rows == (("phone", "100", "20.0 s"), ("card", "4,000", "500 ms"))

from __future__ import annotations

from client.proposal import Proposal
from plait.config import config_from_table
from plait.policy import Policy


def lines(**settings: object) -> str:
    config = config_from_table({"local-steps": 5, "batch-size": 4, "seq-len": 32, **settings})
    return "\n".join(Proposal("here:1", config, b"", "my.jsonl", Policy(), None).lines)


def test_a_run_of_preferences_says_so_and_counts_both_replies() -> None:
    told = lines(objective="dpo:beta=0.2")
    assert "trains 5 steps of 4 preferences of 2 x 32 tokens, objective dpo:beta=0.2: at most 1,280 tokens of" in told
    assert "also sent: losses, how often rewards are right, counts" in told
    plain = lines()
    assert "trains 5 steps of 4 x 32 tokens: at most 640 tokens of" in plain
    assert "preferences" not in plain


def test_a_plan_that_is_larger_than_a_client_takes_unasked_says_so() -> None:
    assert "more than a client takes" not in lines()
    told = lines(**{"seq-len": 100_000})
    assert "that is more than an unattended client accepts: max-seq-len 100,000 (by default 8,192)" in told


def test_a_run_that_rewards_names_the_code_that_it_asks_for() -> None:
    told = lines(objective="grpo:reward=mine:right,group-size=3")
    assert "trains 5 steps of 4 prompts with 3 completions x 32 tokens, objective grpo:reward=mine:right,gr" in told
    assert "group-size=3: at most 1,920 tokens of" in told
    assert "also sent: mean rewards, how many completions had none, counts of examples and tokens" in told


def test_whether_the_run_is_masked_is_said_in_plain_words() -> None:
    told = lines(**{"secure-aggregation": True, "clients": 9})
    assert (
        "the run is masked (secure aggregation): the server learns sums over 4 or more clients, and no single" in told
    )
    few = lines(**{"secure-aggregation": True, "clients": 9, "eval-clients": 4})
    assert "the server learns sums over 3 or more clients" in few
    assert "also sent under masks: losses, how long its update is" in told
    assert "updates of 6 bits per parameter" in told
    assert "join only a server that you trust" not in told
    plain = lines()
    assert "the run is not masked: the server sees this client's own updates and losses" in plain
    assert "also sent: losses, counts of examples and tokens, this machine's device and memory" in plain


def test_an_operator_is_told_who_adds_the_noise() -> None:
    told = lines(dp="record", **{"dp-epsilon": 8.0, "dp-delta": 1e-5})
    assert (
        "this client adds noise to its own training, so that no single sequence shows in what it sends: epsilon 8"
        in told
    )
    assert "also sent: this machine's device and memory" in told
    assert "can reveal parts" not in told
    shared = lines(dp="client", **{"dp-epsilon": 8.0, "dp-delta": 1e-5, "secure-aggregation": True, "clients": 100})
    assert "adds its share of the noise under its masks" in shared
    assert "losses, counts" not in shared
    assert "masks add no noise" not in shared
    assert "the server promises client-level" in lines(dp="client", **{"dp-epsilon": 8.0, "dp-delta": 1e-5})

from __future__ import annotations

from client.proposal import Proposal
from plait.config import RunConfig
from plait.policy import Policy


def lines(**settings: object) -> str:
    config = RunConfig.model_validate({"local-steps": 5, "batch-size": 4, "seq-len": 32, **settings})
    return "\n".join(Proposal("here:1", config, b"", "my.jsonl", Policy(), None).lines)


def test_a_run_of_preferences_says_so_and_counts_both_replies() -> None:
    told = lines(objective="dpo:beta=0.2")
    assert "trains 5 steps of 4 preferences of 2 x 32 tokens, objective dpo:beta=0.2: at most 1,280 tokens of" in told
    assert "also sent: losses, how often rewards are right, counts" in told
    plain = lines()
    assert "trains 5 steps of 4 x 32 tokens: at most 640 tokens of" in plain
    assert "preferences" not in plain

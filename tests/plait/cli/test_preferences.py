"""Runs that learn from preferences, from the command line to the summary."""

import json
import random
from pathlib import Path

import pytest

from plait.adapters.peft_reading import load_peft_directory
from plait.ledger.ledger import read_events
from plait.rounds.run_directory import RunDirectory

WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "sun", "moon"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clients who prefer their words in order."""
    chance, path = random.Random(3), tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": " ".join(asked), "chosen": " ".join(sorted(asked)), "rejected": " ".join(asked[::-1]), "who": who}
        for who in ("ada", "bob")
        for asked in (chance.sample(WORDS, 3) for _ in range(60))
        if sorted(asked) != asked[::-1]
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def learn(plait, pairs, tmp_path):
    """Run a simulation of the two clients."""

    def run(name: str, *options: object, data: Path = pairs):
        ran = plait("simulate", "--data", data, "--partition", "natural:who", "--clients", 2, "--base", "tiny",
                    "--rounds", 2, "--local-steps", 4, "--seq-len", 48, "--rank", 2,
                    "--max-held-out-sequences", 8, "--out", tmp_path / name, *options)  # fmt: skip
        assert "Traceback" not in ran.err
        return ran, tmp_path / name

    return run


def summary(run: Path) -> dict[str, object]:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.slow
def test_a_run_of_preferences_says_everywhere_how_often_rewards_are_right(plait, learn):
    ran, run = learn("dpo", "--objective", "dpo:beta=0.2", "--reference", "local")
    assert ran.code == 0, ran.err
    found = summary(run)
    assert found["objective"] == "dpo:beta=0.2"
    assert found["base_held_out_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert found["final_held_out_loss"] < 0.68
    assert found["final_reward_accuracy"] > 0.5
    assert found["final_reward_margin"] > 0
    assert set(found["reward_margin_by_client"]) == set(found["own_reward_accuracy_by_client"]) == {"ada", "bob"}
    assert found["reference_reward_accuracy"]["local"] > 0.5
    last = [each for each in read_events(RunDirectory(run).ledger) if each.event == "evaluated"][-1]
    for score in (*last.by_client.values(), *last.own.by_client.values()):
        assert score.accuracy is not None
        assert score.reward_margin is not None
        assert score.tokens == score.sequences
    assert "reward accuracy" in (run / "report.html").read_text()
    # The run's own objective, measured again on the clients' data.
    options = ("--data", pairs_of(run), "--json", "--seq-len", 48)
    again = json.loads(plait("eval", "--adapter", run, *options).out)
    assert again["base"]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert again["adapter"]["reward_accuracy"] > 0.5
    assert "perplexity" not in again["adapter"]
    other = json.loads(plait("eval", "--adapter", run / "adapter", *options, "--objective", "dpo:beta=0.4").out)
    assert other["adapter"]["reward_margin"] == pytest.approx(2 * again["adapter"]["reward_margin"], rel=1e-3)
    texts = run.parent / "texts.jsonl"
    texts.write_text("".join(f"{json.dumps({'text': f'red blue green {number} ' * 9})}\n" for number in range(20)))
    plain = json.loads(plait("eval", "--adapter", run, "--data", texts, "--json", "--seq-len", 48).out)
    assert plain["adapter"]["perplexity"] > 1
    assert "margin" in plait("report", run).out


def pairs_of(run: Path) -> str:
    line = next(line for line in (run / "config.toml").read_text().splitlines() if line.startswith("data = "))
    return json.loads(line.removeprefix("data = "))


@pytest.mark.slow
def test_preferences_continue_from_supervised_fine_tuning(learn):
    ran, first = learn("sft")
    assert ran.code == 0, ran.err
    assert "final_reward_accuracy" not in summary(first)
    begun = ("--objective", "dpo", "--rounds", 1, "--init-adapter", first)
    # Continued, the reference is the base alone: what fine-tuning learned already counts as reward.
    ran, continued = learn("continued", *begun)
    assert ran.code == 0, ran.err
    assert abs(summary(continued)["reward_margin_by_round"][0]) > 1e-3
    assert load_peft_directory(continued / "adapter").tensors

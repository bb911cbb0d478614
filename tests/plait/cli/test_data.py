"""Data from the command line to an adapter, as a new user would give it."""

import json
from pathlib import Path

import pytest

from plait.ledger.ledger import read_lines


def options(small: tuple[str, ...], out: Path) -> tuple[object, ...]:
    return ("--clients", 3, *small, "--learning-rate", 1e-2, "--dtype", "float32", "--out", out, "--json")


def rows_of(jsonl: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in jsonl.read_text().splitlines()]


@pytest.mark.slow
def test_a_split_that_is_there_is_held_out(plait, jsonl, tmp_path, small):
    rows = rows_of(jsonl)
    (tmp_path / "d").mkdir()
    for split, part in (("train", rows), ("test", [row for row in rows if row["author"] != "eve"][:20])):
        (tmp_path / "d" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = ("--data", tmp_path / "d", "--columns", "client=author")
    ran = plait("simulate", *data, *options(small, tmp_path / "run")[:-1])
    assert ran.code == 0, ran.err
    assert "no record of eve: plait holds out their last ones" in ran.err
    whole = plait("simulate", *data, "--split", "train", *options(small, tmp_path / "whole"))
    assert whole.code == 0, whole.err
    started = read_lines(tmp_path / "run" / "ledger.jsonl")[0]
    assert (started["data"]["records"], started["data"]["held_out"]) == (len(rows), 20)
    assert len(started["data"]["fingerprint"]) == 64
    tokens, cut = (
        {client["client"]: client["train_tokens"] for line in read_lines(tmp_path / run / "ledger.jsonl")
         if line["event"] == "clients_described" for client in line["clients"]}
        for run in ("run", "whole")
    )  # fmt: skip
    assert tokens["eve"] == cut["eve"]
    assert tokens["ada"] > cut["ada"]
    # Measured on the split, also by `plait eval`.
    figures = json.loads(plait("eval", "--adapter", tmp_path / "run", *data[:2], "--seq-len", 32, "--json").out)
    test_alone = plait(
        "eval", "--adapter", tmp_path / "run", "--data", tmp_path / "d" / "test.jsonl", "--seq-len", 32, "--json"
    )
    assert figures == json.loads(test_alone.out)


@pytest.mark.slow
def test_preference_pairs_that_are_learned_as_texts_are_said_to_be(plait, tmp_path, small):
    rows = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1} of course", "rejected": f" {n} of course"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ("--data", tmp_path / "pairs.jsonl", "--clients", 2, *small)
    said = "the data are preference pairs, and objective sft learns to write the chosen replies alone; --objective dpo"
    ran = plait("simulate", *data, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert said in ran.err
    for objective in ("sft", "dpo"):
        ran = plait("simulate", *data, "--objective", objective, "--out", tmp_path / objective)
        assert ran.code == 0, ran.err
        assert said not in ran.err

"""Data of every shape from the command line to an adapter, as a new user would give it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from plait.ledger.ledger import read_lines

WEIGHTS = "adapter/adapter_model.safetensors"
Rows = list[dict[str, str]]


def options(small: tuple[str, ...], out: Path) -> tuple[object, ...]:
    return ("--clients", 3, *small, "--learning-rate", 1e-2, "--dtype", "float32", "--out", out, "--json")


def rows_of(jsonl: Path) -> Rows:
    return [json.loads(line) for line in jsonl.read_text().splitlines()]


def other_names(rows: Rows, path: Path) -> Path:
    pd.DataFrame(rows).rename(columns={"text": "body", "author": "writer"}).to_csv(path / "my.csv")
    return path / "my.csv"


def shards(rows: Rows, path: Path) -> Path:
    for author in ("ada", "bob", "eve"):
        lines = [json.dumps(row) + "\n" for row in rows if row["author"] == author]
        (path / "d").mkdir(exist_ok=True)
        (path / "d" / f"{author}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return path / "d"


def texts(rows: Rows, path: Path) -> Path:
    for number, row in enumerate(rows):
        (path / "d" / row["author"]).mkdir(parents=True, exist_ok=True)
        (path / "d" / row["author"] / f"{number:03}.txt").write_bytes(row["text"].encode())
    return path / "d"


SHAPES: dict[str, tuple[Callable[[Rows, Path], Path], tuple[str, ...]]] = {
    "csv with other names": (other_names, ("--columns", "text=body,client=writer")),
    "one file per client": (shards, ("--partition", "natural:file")),
    "folders of text": (texts, ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_the_same_rows_in_any_shape_train_the_same_adapter(
    name: str, plait, original: Path, tmp_path: Path, small: tuple[str, ...]
) -> None:
    make, more = SHAPES[name]
    data = make(rows_of(original / "my.jsonl"), tmp_path)
    ran = plait("simulate", "--data", data, *more, *options(small, tmp_path / "run"))
    assert ran.code == 0, ran.err
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_a_split_that_is_there_is_held_out(plait, jsonl: Path, tmp_path: Path, small: tuple[str, ...]) -> None:
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
def test_preference_pairs_that_are_learned_as_texts_are_said_to_be(
    plait, tmp_path: Path, small: tuple[str, ...]
) -> None:
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

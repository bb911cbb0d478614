"""Clients whose data have other shapes, other columns and splits of their own."""

from __future__ import annotations

import csv
import gzip
import json

import pandas as pd
import pytest

pytestmark = pytest.mark.slow


def test_clients_with_data_of_other_shapes_make_the_same_adapter(deployment, simulated, federation, sees_canary):
    rows = {
        name: [json.loads(line) for line in (federation / f"{name}.jsonl").read_text().splitlines()]
        for name in ("alice", "bob", "carol")
    }
    data = deployment.folder / "data"
    (data / "bob").mkdir(parents=True)
    with (data / "alice.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["body", "when"], *([row["text"], "today"] for row in rows["alice"])])
    pd.DataFrame(rows["bob"]).to_parquet(data / "bob" / "train-00000-of-00001.parquet")
    pd.DataFrame(rows["bob"][:1]).to_parquet(data / "bob" / "test-00000-of-00001.parquet")
    (data / "carol.json.gz").write_bytes(gzip.compress(json.dumps(rows["carol"]).encode()))

    deployment.serve("--rounds", "1")
    deployment.join("alice", "--columns", "text=body", data=data / "alice.csv")
    deployment.join("bob", "--split", "train", data=data / "bob")
    deployment.join("carol", data=data / "carol.json.gz")
    deployment.finish()
    reference = simulated("--rounds", "1")
    assert deployment.adapter == (reference / "adapter" / "adapter_model.safetensors").read_bytes()
    started = deployment.events("run_started")[0]
    assert "data" not in started
    assert started["config"]["columns"] == started["config"]["split"] == ""


def test_a_client_measures_on_its_own_held_out_split(deployment, federation):
    data = deployment.folder / "data"
    data.mkdir()
    lines = (federation / "alice.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(lines))
    (data / "validation.jsonl").write_text("".join(lines[:4]))
    deployment.serve("--rounds", "1")
    deployment.join("alice", data=data)
    deployment.join("bob", data=federation / "alice.jsonl")
    deployment.join("carol")
    deployment.finish()
    sizes = {client["client"]: client for line in deployment.events("clients_described") for client in line["clients"]}
    assert sizes["alice"]["train_tokens"] > sizes["bob"]["train_tokens"]
    assert sizes["alice"]["train_tokens"] >= sizes["bob"]["train_tokens"] + sizes["bob"]["held_out_tokens"]

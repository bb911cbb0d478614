"""What `plait estimate` says that a run sends, beside the ledger of the same run: real training on `tiny`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import plait
from plait.cli.app import app

COMMON = {
    "base": "tiny", "partition": "iid", "local_steps": 4, "batch_size": 2, "seq_len": 32, "threads": 1, "rank": 4,
    "held_out_fraction": 0.2, "max_held_out_sequences": 1, "dtype": "float32", "learning_rate": 1e-3,
}  # fmt: skip
FLEET = """
[[device]]
name = "slow"
count = 3
tokens_per_s = 1000
up_mbps = 10
down_mbps = 50
[[device]]
name = "fast"
count = 3
tokens_per_s = 5000
up_mbps = 10
down_mbps = 50
"""
CASES = {
    "everybody in every round": {"clients": 4, "rounds": 4, "eval_every": 4},
    "evaluated after every round": {"clients": 4, "rounds": 4, "eval_every": 1},
    "half of the clients": {"clients": 6, "clients_per_round": 3, "rounds": 6, "eval_every": 6},
    "a few of many": {"clients": 12, "clients_per_round": 2, "rounds": 12, "eval_every": 12},
    "newcomers in every round": {
        "clients": 16, "clients_per_round": 2, "rounds": 6, "eval_every": 6, "eval_clients": 1,
    },
    "exact numbers, more asked than wanted": {
        "clients": 6, "clients_per_round": 2, "over_selection": 0.5, "rounds": 4, "eval_every": 2, "wire": "bf16",
    },
    "asynchronous": {
        "clients": 6, "clients_per_round": 4, "rounds": 6, "eval_every": 3, "rounds_mode": "async",
        "fleet": "fleet.toml",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def records() -> list[dict[str, str]]:
    return [
        {"text": f"Line {number} of a book about {number % 7} foxes and {number % 5} dogs. " * 3}
        for number in range(160)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_bytes_of_an_estimate_are_those_of_the_run(case, records, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fleet.toml").write_text(FLEET)
    settings = {**COMMON, **CASES[case]}
    words = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    said = CliRunner().invoke(app, ["estimate", *words, "--json"])
    assert said.exit_code == 0, said.output
    estimated = json.loads(said.stdout)
    run = plait.simulate(records, out=tmp_path / "run", quiet=True, **settings)
    sent = json.loads((run.path / "summary.json").read_text())
    for key in ("uplink_bytes", "downlink_bytes"):
        assert estimated[key] == pytest.approx(sent[key], rel=0.05), key

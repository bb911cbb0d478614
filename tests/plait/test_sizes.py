"""What is counted for a run beside what the same run sends and stores: real training on `tiny`."""

import json
from pathlib import Path

import pytest

import plait
from plait.api.settings import run_config_of
from plait.settle import settle
from plait.sizes import planned_shape, sent_bytes, server_disk_bytes
from plait.training.bases import locate_config

COMMON = {
    "base": "tiny", "partition": "iid", "local_steps": 4, "batch_size": 2, "seq_len": 32, "threads": 1, "rank": 8,
    "held_out_fraction": 0.2, "max_held_out_sequences": 1, "dtype": "float32", "learning_rate": 1e-3,
    "clients": 4, "rounds": 4, "eval_every": 4,
}  # fmt: skip
HALF = {"clients": 6, "clients_per_round": 3, "rounds": 6, "eval_every": 6}
CASES = {
    "everybody in every round": {},
    "a side frozen, evaluated after every round": {"rule": "ffa", "eval_every": 1, "learning_rate": 0},
    "a side frozen, half of the clients": {"rule": "ffa", **HALF},
    "a personal side at two bits": {"rule": "fedsa", "wire": 2},
    "sides by turns": {"rule": "rolora"},
    "sides by turns, half of the clients": {"rule": "rolora", **HALF},
    "sides by turns, exact": {"rule": "rolora", "wire": "fp32"},
    "new factors for two ranks": {"rule": "flexlora", "client_ranks": "2,4"},
    "new factors of one side, half of the clients": {"rule": "fedsvd", **HALF},
    "DoRA": {"method": "dora"},
    "squares alone": {"method": "lora_xs", "rule": "fedsb", "rank": 32},
    "newcomers in every round": {"clients": 16, "clients_per_round": 2, "eval_clients": 1},
    "more asked than wanted": {
        "clients": 6, "clients_per_round": 2, "eval_every": 2, "wire": "bf16",
    },
    "asynchronous": {
        "clients": 6, "clients_per_round": 4, "rounds": 6, "eval_every": 3, "rounds_mode": "async",
        "fleet": "fleet.toml",
    },
    "masks": {"secure_aggregation": True},
    "masks of one side": {"secure_aggregation": True, "rule": "ffa", "eval_every": 1},
}  # fmt: skip
# Two kinds of devices, for whom is at work when.
FLEET = "".join(
    f'[[device]]\nname = "{name}"\ncount = 3\ntokens_per_s = {speed}\nup_mbps = 10\ndown_mbps = 50\n'
    for name, speed in (("slow", 1000), ("fast", 5000))
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_counted_bytes_are_those_of_the_run(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fleet.toml").write_text(FLEET)
    records = [
        {"text": f"Line {number} of a book about {number % 7} foxes and {number % 5} dogs. " * 3}
        for number in range(240)
    ]
    settings = {**COMMON, **CASES[case]}
    run = plait.simulate(records, out=tmp_path / "run", quiet=True, **settings)
    sent = json.loads((run.path / "summary.json").read_text())
    settled = settle(run_config_of(settings))
    shape = planned_shape(settled, locate_config("tiny"))
    counted = sent_bytes(settled, shape.spec, evaluates=True, certified=False)
    assert counted.uplink_bytes == pytest.approx(sent["uplink_bytes"], rel=0.03)
    assert counted.downlink_bytes == pytest.approx(sent["downlink_bytes"], rel=0.03)
    if case in ("everybody in every round", "sides by turns, exact"):
        files = (path for kind in ("checkpoints", "adapter") for path in (run.path / kind).rglob("*") if path.is_file())
        stored = sum(path.stat().st_size for path in files)
        beside = counted.uplink_bytes + 500_000 + 1000 * settled.config.rounds * 2 * 4
        assert stored == pytest.approx(server_disk_bytes(settled, shape.spec, counted) - beside, rel=0.1)


def test_masks_cost_more_where_clients_prove_who_they_are() -> None:
    settled = settle(run_config_of({**COMMON, "secure_aggregation": True}))
    spec = planned_shape(settled, locate_config("tiny")).spec
    proven, simulated = (sent_bytes(settled, spec, evaluates=True, certified=each) for each in (True, False))
    assert proven.uplink_bytes > simulated.uplink_bytes
    assert proven.downlink_bytes > simulated.downlink_bytes

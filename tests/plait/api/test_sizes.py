"""What is counted for a run beside what the same run sends and stores: real training on `tiny`."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import plait
from plait.adapters.methods import METHODS
from plait.aggregation import RULES
from plait.api.settings import run_config_of
from plait.api.sizes import Estimate, planned_shape, sent_bytes, server_disk_bytes
from plait.ledger.run_now import Traffic
from plait.report.summary import summarise
from plait.report.table import Table
from plait.settle import settle
from plait.training.bases import locate_config
from tests.plait.conftest import view_of

COMMON = {
    "base": "tiny", "partition": "iid", "local_steps": 4, "batch_size": 2, "seq_len": 32, "threads": 1, "rank": 8,
    "held_out_fraction": 0.2, "max_held_out_sequences": 1, "dtype": "float32", "learning_rate": 1e-3,
    "clients": 4, "rounds": 4, "eval_every": 4,
}  # fmt: skip
HALF = {"clients": 6, "clients_per_round": 3, "rounds": 6, "eval_every": 6}
_SQUARES = {"method": "lora_xs", "rank": 32}
_MIXING = ("flexlora", "hetlora", "raflora", "rbla", "zeropad")
_ABSENT = "qlora" if find_spec("bitsandbytes") is None else ""
CASES = {
    "everybody in every round": {},
    "masks": {"secure_aggregation": True},
    "sides by turns, exact": {"rule": "rolora", "bits": "fp32"},
    **{rule: {"rule": rule, **(_SQUARES if rule == "fedsb" else {}), "rounds": 3, "eval_every": 3} for rule in RULES},
    **{
        f"{rule}, half": {"rule": rule, **(_SQUARES if rule == "fedsb" else {}), **HALF}
        for rule in ("fedsa", "fedsb", "fedsvd", "ffa", "flexlora", "rolora")
    },
    **{f"{rule}, masks": {"rule": rule, "secure_aggregation": True, "eval_every": 1} for rule in ("ffa", "fedsa")},
    # In 16 bits: the codec of few bits misses its rate where a few rows alone move, and for the smallest adapters.
    **{f"{rule}, ranks": {"rule": rule, "client_ranks": "2,4,8", "bits": "bf16", "rounds": 3} for rule in _MIXING},
    "two ranks, half": {"rule": "flexlora", "client_ranks": "2,4", **HALF},
    **{
        method: {"method": method, "bits": "bf16", "rounds": 2, **(_SQUARES if method == "lora_xs" else {})}
        for method in METHODS
        if method != _ABSENT
    },
    **{f"wire {wire}": {"bits": wire, "rounds": 3, "eval_every": 1} for wire in ("fp32", 1.5, 2, 3, 4, 6, 8)},
    "a personal side at two bits": {"rule": "fedsa", "bits": 2},
    "newcomers in every round": {"clients": 16, "clients_per_round": 2, "eval_clients": 1},
    "few in every round": {"clients": 6, "clients_per_round": 2, "eval_every": 2, "bits": "bf16"},
    "privacy of clients": {"dp": "client", "dp_epsilon": 8.0, "bits": 4, "eval_every": 0},
    "privacy of records": {"dp": "record", "dp_epsilon": 8.0, "eval_every": 0},
    "asynchronous": {
        "clients": 6, "clients_per_round": 4, "rounds": 6, "eval_every": 3, "rounds_mode": "async",
        "fleet": "fleet.toml",
    },
}  # fmt: skip
# Two kinds of devices, for whom is at work when.
FLEET = "".join(
    f'[[device]]\nname = "{name}"\ncount = 3\ntokens_per_s = {speed}\nup_mbps = 10\ndown_mbps = 50\n'
    for name, speed in (("slow", 1000), ("fast", 5000))
)


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")  # by PEFT's prefix
@pytest.mark.parametrize(
    "case", [name if number < 3 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(CASES)]
)
def test_counted_bytes_are_those_of_the_run(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fleet.toml").write_text(FLEET)
    records = [
        {"text": f"Line {number} of a book about {number % 7} foxes and {number % 5} dogs. " * 3}
        for number in range(240)
    ]
    settings = {key: value for key, value in {**COMMON, **CASES[case]}.items() if value != 0}
    run = plait.simulate(records, out=tmp_path / "run", quiet=True, **settings)
    sent = json.loads((run.path / "summary.json").read_text())
    settled = settle(run_config_of(settings))
    shape = planned_shape(settled, locate_config("tiny"))
    counted = sent_bytes(settled, shape.spec, evaluates=settled.config.evaluates, certified=False)
    assert counted.uplink_bytes == pytest.approx(sent["uplink_bytes"], rel=0.03)
    assert counted.downlink_bytes == pytest.approx(sent["downlink_bytes"], rel=0.03)
    if case in ("everybody in every round", "sides by turns, exact"):
        files = (path for kind in ("checkpoints", "adapter") for path in (run.path / kind).rglob("*") if path.is_file())
        stored = sum(path.stat().st_size for path in files)
        beside = counted.uplink_bytes + 500_000 + 1000 * settled.config.rounds * 2 * 4
        assert stored == pytest.approx(server_disk_bytes(settled, shape.spec, counted) - beside, rel=0.1)


def test_masks_cost_more_where_clients_prove_who_they_are():
    settled = settle(run_config_of({**COMMON, "secure_aggregation": True}))
    spec = planned_shape(settled, locate_config("tiny")).spec
    proven, simulated = (sent_bytes(settled, spec, evaluates=True, certified=each) for each in (True, False))
    assert proven.uplink_bytes > simulated.uplink_bytes
    assert proven.downlink_bytes > simulated.downlink_bytes


EXTRA = Table(title="More", headings=("", ""), rows=(("a", "b"),))


def estimate(**changed: object) -> Estimate:
    config = run_config_of({"base": "tiny", "clients": 20, "clients_per_round": 2, "rounds": 10})
    given = {
        "config": config, "trainable_parameters": 1001, "base_parameters": 1_000_000, "base_bits": 16,
        "base_memory_bytes": 2_000_000, "adapter_memory_bytes": 20_020, "sent": Traffic(80_100, 160_200),
        "server_disk_bytes": 5_000_000,
    }  # fmt: skip
    return Estimate(**{**given, **changed})


def test_figures_are_by_round_and_client_and_have_the_names_that_a_run_s_have(small_run):
    figures = estimate(privacy=(EXTRA, {"dp_epsilon": 3})).to_json()
    assert figures["uplink_bytes_per_client_round"] == 80_100 / 20
    assert figures["savings_vs_fp32_adapter"] == pytest.approx(2 * 4 * 1001 * 20 / (80_100 + 160_200))
    assert figures["savings_vs_full_model"] == pytest.approx(2 * 4_000_000 * 20 / (80_100 + 160_200))
    assert figures["dp_epsilon"] == 3
    assert set(summarise(view_of(small_run))) & set(figures) == set(figures) - {
        "clients_per_round", "client_base_memory_bytes", "client_adapter_memory_bytes", "server_disk_bytes",
        "dp_epsilon",
    }  # fmt: skip

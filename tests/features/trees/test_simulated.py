"""A tree of simulated servers computes what one server does."""

import json

import pytest
from typer.testing import CliRunner

from plait.api.resuming import settings_of
from plait.api.simulate import simulate
from plait.cli.app import app
from plait.config import config_from_table
from plait.errors import ConfigError, PeerError
from plait.features.privacy.run import privacy_of
from plait.features.trees.regional import below
from plait.rounds.ledger import read_events, read_lines
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView
from plait.settle import settle

SETTINGS = {
    "base": "tiny", "dtype": "float32", "threads": 1, "rounds": 2, "local_steps": 1, "batch_size": 1, "seq_len": 16,
    "seed": 7, "eval_every": 2, "max_held_out_sequences": 1, "quiet": True,
}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [{"text": f"line {n} of somebody, who wrote {n * n} others before it"} for n in range(80)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tree", "rule"),
    [("2x2", {"rule": "fedavg"}), ("2x2", {"rule": "fedsb", "method": "lora_xs"})],
    ids=["fedavg", "fedsb"],
)
def test_a_tree_ends_with_the_adapter_of_the_flat_run_bit_for_bit(tmp_path, data, tree, rule):
    flat = simulate(data, partition="iid", clients=4, out=tmp_path / "flat", **SETTINGS, **rule)
    grown = simulate(data, partition="iid", tree=tree, out=tmp_path / "tree", **SETTINGS, **rule)
    name = "adapter_model.safetensors"
    assert (grown.adapter() / name).read_bytes() == (flat.adapter() / name).read_bytes()
    # What each region has is its own: the server's ledger names no client.
    assert "client-0" not in (tmp_path / "tree" / "ledger.jsonl").read_text()
    ledgers = sorted((tmp_path / "tree" / "regions").glob("*/ledger.jsonl"))
    of_regions = [[event for event in read_lines(path) if event["event"] == "update_received"] for path in ledgers]
    assert [len({event["client"] for event in events}) for events in of_regions] == [2, 2]
    summary = json.loads((tmp_path / "tree" / "summary.json").read_text())
    assert (summary["clients"], summary["regions"]) == (4, 2)
    page = (tmp_path / "tree" / "report.html").read_text()
    for told in ("4 clients in 2 regions", "Held-out loss by region", "4 region-rounds", "per region and round"):
        assert told in page
    assert "by client" not in page
    if rule["rule"] == "fedavg":
        assert (grown.adapter("client-00") / name).read_bytes() == (flat.adapter("client-00") / name).read_bytes()
        with pytest.raises(ConfigError, match="client is 'region-0', expected one of client-00, client-01"):
            grown.adapter("region-0")
    of_region(ledgers[0].parent)


def of_region(directory):
    """What the commands say of a region's directory."""
    tell = CliRunner().invoke
    told = tell(app, ["verify", str(directory)])
    assert told.exit_code == 0
    assert "region 'region-0', chain intact" in told.output
    assert "sums         2, of 4 updates" in told.output
    assert json.loads(tell(app, ["verify", str(directory), "--json"]).output)["sums"] == 2
    with pytest.raises(PeerError, match="ledger is of region 'region-0'"):
        RunView.of(read_events(directory / "ledger.jsonl"))
    with pytest.raises(ConfigError, match="is of region 'region-0', expected a run's directory"):
        settings_of(RunDirectory.find(directory))


@pytest.mark.slow
def test_each_server_has_less_time_than_the_one_above():
    settled = settle(config_from_table({"tree": "2x3x4", "deadline_s": 100.0}))
    region = below(settled)
    assert (region.config.levels, region.plan.deadline_s, region.plan.region_clients) == ((3, 4), 80.0, 4)
    assert (below(region).config.levels, below(region).plan.deadline_s) == ((4,), 64.0)
    assert below(settle(config_from_table({"tree": "2x3"}))).plan.deadline_s is None


@pytest.mark.slow
def test_a_private_region_sends_what_it_has_and_adds_the_noise_of_no_other_number_of_clients():
    settled = settle(config_from_table({"tree": "2x3x4", "dp": "client", "dp_epsilon": 8.0, "dp_clip": 0.5}))
    region = below(settled)
    assert (settled.plan.quorum, region.plan.quorum, below(region).plan.quorum) == (1, 1, 1)
    assert (
        settle(config_from_table({"tree": "20x4", "dp": "client", "dp_epsilon": 8.0, "dp_clip": 0.5})).plan.quorum == 10
    )
    assert privacy_of(region.config) == privacy_of(settled.config)
    assert privacy_of(settled.config).clients == 24


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tree": "2x3", "rule": "median"}, "tree needs that the sum of all updates is enough for the rule"),
        ({"tree": "2x3", "clients": 12}, "expected 6"),
        ({"tree": "2x3", "clients": 7}, "expected 6 clients"),
        ({"tree": "2x0"}, "such as 10x100"),
        ({"tree": "2x3", "secure_aggregation": True}, "regions would see their clients' updates"),
        ({"tree": "2x3", "dp": "client", "dp_epsilon": 8.0}, "dp-clip is 'adaptive' and tree is '2x3'"),
        ({"tree": "2x3", "server_optimizer": "fedexp"}, "norms of single updates"),
        ({"tree": "2x3", "clients_per_round": 3}, "a region asks all of its own clients"),
    ],
)
def test_what_a_tree_does_not_go_with_is_refused(tmp_path, data, settings, said):
    with pytest.raises(ConfigError, match=said):
        simulate(data, out=tmp_path / "run", **SETTINGS, **settings)
    assert not (tmp_path / "run").exists()

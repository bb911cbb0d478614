import gc
import json
import weakref

import pytest

from plait.config import RunConfig
from plait.simulation import clients


@pytest.fixture
def config(tmp_path) -> RunConfig:
    path = tmp_path / "data.jsonl"
    lines = [{"text": f"line {n} of {who}", "who": who} for who in ("ann", "bob") for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunConfig(data=str(path), partition="natural:who", clients=2, base="tiny", device="cpu", dtype="float32")


def test_the_clients_of_a_run_are_let_go_once_another_begins(config) -> None:
    first = weakref.ref(clients.simulated_client(config, 0))
    assert clients.simulated_client(config, 0) is first()
    clients.simulated_client(config.model_copy(update={"seed": 1}), 0)
    gc.collect()
    assert first() is None


def test_the_clients_take_what_the_command_has_dealt_out(config, monkeypatch) -> None:
    dataset, dealt = clients.deal(config)
    monkeypatch.setattr(clients, "load_dataset", None)
    assert [clients.client_name(config, index) for index in (0, 1)] == [share.name for share in dealt.shares]
    assert clients.simulated_client(config, 1).base_fingerprint == clients.resident_base(config).fingerprint
    assert len(dataset.records) == 6


def test_another_deal_is_not_taken(config) -> None:
    clients.deal(config)
    assert clients.client_name(config.model_copy(update={"partition": "iid"}), 0) == "client-00"

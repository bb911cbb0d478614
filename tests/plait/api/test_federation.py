"""Three clients and a server in one process, over gRPC on loopback."""

import signal
from datetime import UTC, datetime

import pytest

import plait
from plait.errors import ConfigError
from plait.ledger.events import RoundFinished
from plait.trust.provision import provision
from tests.attending import attend, served, shares_of

WEIGHTS = "adapter/adapter_model.safetensors"
NAMES = ("ada", "bob", "eve")


@pytest.fixture
def training(small: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in small.items() if key != "quiet"}


@pytest.fixture
def shares(records: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    return shares_of(records)


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["insecure", "tls"])
def test_three_clients_and_a_server_of_one_process_make_the_adapter_of_a_simulation(
    finished, shares, training, tmp_path, tls
):
    if tls:
        provision(tmp_path / "fed", NAMES, ("localhost",), now=datetime.now(UTC))
    kits = tmp_path / "fed" if tls else None
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    heard: list[plait.Event] = []
    out = tmp_path / "run"
    run = served(out, shares, tmp_path, kits=kits, callbacks=[heard.append], **training)
    assert run.finished
    assert tuple(heard) == run.events
    assert (out / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert set(run.summary["held_out_loss_by_client"]) == set(NAMES)
    assert (out / "report.html").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_a_server_that_a_callback_paused_continues_with_the_same_clients(finished, shares, training, tmp_path):
    def pause(event: plait.Event) -> plait.Stop | None:
        return plait.Stop.PAUSE if isinstance(event, RoundFinished) and event.round == 1 else None

    out = tmp_path / "run"
    with plait.Server(out=out, callbacks=[pause], insecure=True, quiet=True, **training) as server:
        clients = attend(server.address, shares, tmp_path)
        assert not server.wait(timeout_s=600).finished
        address = server.address
    with plait.Server(out=out, listen=address, insecure=True, quiet=True, **training) as server:
        assert server.wait(timeout_s=600).finished
        for client in clients:
            client.wait(timeout_s=180)
    assert (out / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    with pytest.raises(ConfigError, match="was served to clients"):
        plait.resume(out)


@pytest.mark.slow
def test_a_server_and_a_client_without_each_other_stop_when_they_are_told(shares, training, tmp_path):
    with plait.Server(out=tmp_path / "run", insecure=True, quiet=True, **training) as server:
        address = server.address
    with plait.Client(
        shares["ada"], name="ada", server=address, insecure=True, state=tmp_path / "state", quiet=True
    ) as client:
        pass
    client.wait(timeout_s=0)
    assert not server.wait().finished

"""`plait client --forget`: a person leaves a client's data, for all later rounds."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

import plait
from client.base import open_runner
from client.forgotten import Forgotten
from client.program import client
from client.sent import attested
from client.settings import check_settings, locked
from plait.data import Dataset, as_dataset
from plait.errors import ConfigError, DataError
from plait.evidence.envelope import opened
from plait.ledger.events import ClientsDescribed
from plait.ledger.ledger import read_events
from plait.trust.kit import ClientKit
from plait.trust.provision import provision
from tests.attending import NAMES, SMALL, attend
from tests.client.test_base import TINY, a_run

PERSONS = 4


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "ada.jsonl"
    lines = [{"text": f"note {n} of {n % PERSONS}", "patient": f"p{n % PERSONS}"} for n in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def forget(*names: str, data: Path, state: Path, **more: object) -> None:
    trust = {} if "kit" in more else {"insecure": True}
    given = {"server": "localhost:1", "data": str(data), "group": "patient", "state": state, **trust, **more}
    client(json_output=True, quiet=False, forget=names, **given)  # type: ignore[arg-type]


def left(data: Path, state: Path) -> set[str]:
    records = Forgotten.of(state, "ada").without(as_dataset(str(data))).records
    return {record.columns["patient"] for record in records}


def test_what_is_forgotten_stays_so_and_its_name_is_not_written_down(data, tmp_path, capsys):
    state = tmp_path / "state"
    forget("p1", data=data, state=state)
    forget("p1", " p3 ", data=data, state=state)
    assert left(data, state) == {"p0", "p2"}
    (said, *_) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (said["event"], said["rounds"]) == ("forgotten", "{}")
    text = (state / "ada.forgotten").read_text()
    assert len(json.loads(text)["groups"]) == 2
    assert '"p1"' not in text
    assert '"p3"' not in text


@pytest.mark.parametrize(
    ("names", "more", "error", "why"),
    [
        (["p9"], {}, DataError, "no record has that value in column 'patient'"),
        (["p1"], {"group": ""}, ConfigError, "give --group COLUMN"),
        (["p1"], {"group": "person"}, ConfigError, "no column 'person'"),
        ([f"p{number}" for number in range(PERSONS)], {}, DataError, "leaves no record"),
    ],
)
def test_what_cannot_be_forgotten_is_refused(data, tmp_path, names, more, error, why):
    with pytest.raises(error, match=why):
        forget(*names, data=data, state=tmp_path / "state", **more)


def test_a_client_at_work_is_not_changed(data, tmp_path):
    with locked(tmp_path / "state", "ada"), pytest.raises(ConfigError, match="stop the other"):
        forget("p1", data=data, state=tmp_path / "state")


def test_data_without_the_column_and_a_damaged_list_are_refused(data, tmp_path):
    state = tmp_path / "state"
    forget("p1", data=data, state=state)
    with pytest.raises(ConfigError, match="has no column 'patient', by which"):
        Forgotten.of(state, "ada").without(as_dataset([{"text": "without a name"}]))
    (state / "ada.forgotten").write_text('{"key": 7, "groups": []}')
    with pytest.raises(ConfigError, match="is damaged: restore it"):
        left(data, state)


def test_a_client_without_the_column_of_the_run_is_told_so(tmp_path):
    told: list[str] = []
    settings = check_settings(server="localhost:1", data="ada.jsonl", insecure=True, state=tmp_path)
    open_runner(a_run("tiny", TINY, group="patient"), settings, _notes(), progress=told.append)
    assert [each for each in told if "each record is a group by itself; give --group COLUMN" in each]


def _notes() -> Dataset:
    return as_dataset([{"text": f"words {number}"} for number in range(4)])


@pytest.mark.slow
def test_later_rounds_do_without_the_group_and_its_rounds_are_stated(tmp_path, capsys):
    kits, state = tmp_path / "kits", tmp_path / "state"
    provision(kits, NAMES, ("localhost",), now=datetime.now(UTC))
    files: dict[str, Path] = {}
    for name in NAMES:
        rows = [{"text": f"{name} {n}: " + 40 * "word ", "patient": f"p{n % PERSONS}"} for n in range(24)]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))

    def examples_of(run: str) -> dict[str, int]:
        with plait.Server(out=tmp_path / run, kit=kits / "server", clients=3, group="patient", **SMALL) as server:  # type: ignore[arg-type]
            clients = attend(server.address, files, tmp_path, kits=kits, quiet=False)
            server.wait(timeout_s=600)
            for each in clients:
                each.wait(timeout_s=180)
        found = [each for each in read_events(tmp_path / run / "ledger.jsonl") if isinstance(each, ClientsDescribed)]
        return {card.client: card.train_examples + card.held_out_examples for each in found for card in each.clients}

    before = examples_of("first")
    forget("p1", data=files["ada"], state=state, kit=kits / "clients" / "ada")
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    (rounds,) = json.loads(said["rounds"]).values()
    assert rounds == [1, 2]
    assert "rounds 1 to 2" in said["text"]
    after = examples_of("second")
    assert after["ada"] < before["ada"]
    assert after["bob"] == before["bob"]
    stated: list[object] = []
    for run in json.loads(said["rounds"]), {line["run"] for line in _lines(state) if "run" in line}:
        for run_id in run:
            kit = ClientKit.load(kits / "clients" / "ada")
            _, data = attested(kit, state, run=run_id)
            stated.append(opened(data, what="it")["predicate"]["forgotten"])
    assert stated[0] == [{"column": "patient", "rounds": [1, 2]}]
    assert [{"column": "patient", "rounds": []}] in stated
    newest = next(line["run"] for line in reversed(_lines(state)) if "run" in line)
    for run in ("", "second", str(newest)[:16]):
        assert attested(ClientKit.load(kits / "clients" / "ada"), state, run=run)[0] == newest
    assert f"--kit {kits / 'clients' / 'ada'} {str(newest)[:16]}" in capsys.readouterr().err


def _lines(state: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (state / "ada.sent.jsonl").read_text().splitlines()]

import errno
import json
import os

import pytest
from pydantic import ConfigDict

from plait.errors import ConfigError, MachineError, PeerError
from plait.ledger import events
from plait.ledger.events import EVENTS, Evaluated, Event, Resumed, RoundStarted
from plait.ledger.ledger import Follower, Ledger, read_events, read_lines
from plait.ledger.redaction import KEPT, screened
from tests.plait.conftest import recorded

FIELDS = {"round": 1, "loss": 0.1 + 0.2, "client": 'zoë "\n\u2028', "by": {"b": None, "a": [True, -0.0, 1e-300]}}


class Anything(Event):
    """An event with whatever fields a test gives it."""

    model_config = ConfigDict(extra="allow")
    event = "anything"


def written(path, count=4):
    recorded(path, (Anything(number=number, **FIELDS) for number in range(count)), clock=lambda: 1000.0)
    return path.read_bytes()


def test_an_event_is_read_as_it_was_written_with_its_number_time_and_hash(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written = Evaluated(round=3, loss=0.1 + 0.2, by_client={"zoë": {"loss": 1e-300, "tokens": 2}})
    recorded(path, [RoundStarted(round=3), written], clock=lambda: 1234.56789)
    _, read = read_events(path)
    assert read == written.model_copy(update={"seq": 1, "time": 1234.568, "hash": read_lines(path)[1]["hash"]})


def test_an_event_is_on_disk_when_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    synced.clear()
    ledger.append(Anything())
    assert len(synced) == 1
    assert len(read_events(tmp_path / "ledger.jsonl")) == 1
    ledger.close()


def test_any_changed_byte_is_found(tmp_path):
    path = tmp_path / "ledger.jsonl"
    recorded(path, [Anything(loss=0.1, name="zoë"), Anything(gone=False)], clock=lambda: 1000.0)
    data = path.read_bytes()
    # The last newline is left out: without it the last line is a torn one.
    for index in range(len(data) - 1):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        with pytest.raises(PeerError, match=r"line [12] of"):
            read_events(path)


BROKEN = {
    "no head": (lambda lines: lines[1:], 1),
    "dropped": (lambda lines: [lines[0], *lines[2:]], 2),
    "reordered": (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
    "repeated": (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
    "inserted": (lambda lines: [*lines[:2], b"{}", *lines[2:]], 3),
    "deep": (lambda lines: [*lines[:2], b"[" * 100_000, *lines[2:]], 3),
    "edited": (lambda lines: [*lines[:2], lines[2].replace(b'"number":2', b'"number":9'), lines[3]], 3),
    "key twice": (lambda lines: [*lines[:2], lines[2].replace(b'{"', b'{"number":9,"', 1), lines[3]], 3),
    "NaN": (lambda lines: [*lines[:3], lines[3].replace(b'"loss":0.', b'"loss":NaN,"x":0.')], 4),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_chain_is_found_and_the_line_named(tmp_path, how):
    change, line = BROKEN[how]
    path = tmp_path / "ledger.jsonl"
    lines = written(path).splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in change(lines)))
    with pytest.raises(PeerError, match=f"line {line} of"):
        read_events(path)
    with pytest.raises(PeerError, match=f"line {line} of"):
        Ledger(path)


@pytest.mark.parametrize("torn_bytes", [1, 20, -1])
def test_a_torn_last_line_is_dropped_and_cut_off(tmp_path, torn_bytes):
    path = tmp_path / "ledger.jsonl"
    data = written(path, 3)
    start = data.rstrip(b"\n").rindex(b"\n") + 1
    path.write_bytes(data[:start] + data[start:][:torn_bytes])
    assert [line["number"] for line in read_lines(path)] == [0, 1]
    ledger = Ledger(path)
    assert path.read_bytes() == data[:start]
    ledger.append(Resumed())
    ledger.close()
    assert [line["event"] for line in read_lines(path)] == ["anything", "anything", "resumed"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_append_that_failed_leaves_the_chain_whole(tmp_path, monkeypatch, failure):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(RoundStarted(round=1))

    def fail(descriptor):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises((MachineError, KeyboardInterrupt)):
            ledger.append(Anything(filler="x" * 1000))
    ledger.append(Resumed())
    ledger.close()
    assert [event.event for event in read_events(path)] == ["round_started", "resumed"]


def test_a_ledger_is_open_only_once(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(Anything())
    with pytest.raises(ConfigError, match="is being written by another process"):
        Ledger(path)
    ledger.close()
    Ledger(path).close()


def test_a_ledger_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(PeerError, match="cannot read the ledger"):
        read_events(tmp_path / "ledger.jsonl")
    with pytest.raises(MachineError, match="cannot open"):
        Ledger(tmp_path / "missing" / "ledger.jsonl")


def test_a_number_that_json_has_not_is_refused(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(Anything(loss=float("nan")))
    ledger.append(Anything(loss=0.0))
    ledger.close()
    assert json.loads((tmp_path / "ledger.jsonl").read_text())["loss"] == 0.0


def test_a_follower_of_a_ledger_gets_every_whole_event_once_and_reads_every_line_once(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    follower = Follower(path)
    assert follower.new_events() == []
    ledger = Ledger(path)
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda line, **more: parsed.append(line) or loads(line, **more))
    seen = []
    for number in range(50):
        ledger.append(RoundStarted(round=number))
        seen += follower.new_events()
    ledger.close()
    assert [event.round for event in seen] == list(range(50))
    assert len(parsed) == 50
    with path.open("ab") as file:
        file.write(b'{"event":"round_started",')
        file.flush()
        assert follower.new_events() == []
        file.write(b'"round":51}\n')
    assert follower.new_events() == [RoundStarted(round=51)]


def test_a_listener_hears_of_the_events_that_were_written(tmp_path, monkeypatch):
    heard = []
    ledger = Ledger(tmp_path / "ledger.jsonl", on_event=heard.append)
    ledger.append(RoundStarted(round=1))
    ledger.note(RoundStarted(round=2))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(MachineError):
            ledger.append(RoundStarted(round=3))
    ledger.close()
    assert heard == read_events(tmp_path / "ledger.jsonl")[:2]
    assert [(event.seq, event.round) for event in heard] == [(0, 1), (1, 2)]


def test_a_line_without_end_is_refused_and_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("plait.ledger.ledger._MOST_LINE_BYTES", 1000)
    path = tmp_path / "ledger.jsonl"
    written(path)
    follower = Follower(path)
    assert len(follower.new_events()) == 4
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 5000)
    with pytest.raises(PeerError, match="holds a line of more than"):
        follower.new_events(10)
    os.mkfifo(tmp_path / "pipe")
    assert Follower(tmp_path / "pipe").new_events() == []
    with pytest.raises(PeerError, match="not a regular file"):
        read_lines(tmp_path / "pipe")


OF_EVERY_EVENT = {"seq", "time", "hash"}
# What a client computes from its data, by event; somebody has decided for every other field that it may be read.
LEFT_OUT = {
    "run_started": {"data"},
    "update_received": {*events.UpdateReceived.model_fields} - {*OF_EVERY_EVENT, "round", "client", "codec", "clients"},
    "update_refused": {"detail", "uplink_bytes"},
    "client_turned_away": {"detail"},
    "reply_received": {"uplink_bytes"},
    "round_finished": {"clipped", "weight_capped", "diagnostics"},
}  # fmt: skip
AS_A_WHOLE = {"evaluated", "judged", "not_published", "step_taken_back", "reference"}


@pytest.mark.parametrize("model", EVENTS, ids=lambda model: model.event)
def test_somebody_has_decided_on_every_field_of_every_event(model):
    assert model in KEPT
    kept = KEPT[model]
    fields = set(model.model_fields) - OF_EVERY_EVENT
    left_out = set() if kept == {"*"} else fields - kept
    assert left_out == (fields if model.event in AS_A_WHOLE else LEFT_OUT.get(model.event, set()))


def test_an_event_without_a_decision_is_left_out_unless_it_declares_itself_public():
    class New(Event):
        event = "new"
        loss: float = 1.0

    class Public(Event):
        event = "public"
        is_public = True
        sums: int = 3

    assert screened(New(), update_bytes=1) is None
    assert screened(Public(), update_bytes=1) == Public()


def test_of_a_client_only_name_rank_and_key_are_kept():
    card = events.DescribedClient(
        client="a", train_examples=7, train_tokens=70, histogram={"x": 7}, rank=8, public_key="ab"
    )
    (kept,) = screened(events.ClientsDescribed(clients=(card,)), update_bytes=1).clients
    assert kept == events.DescribedClient(client="a", rank=8, public_key="ab")


def test_an_update_has_the_size_that_its_encoding_aims_at():
    update = events.UpdateReceived(round=1, client="a", uplink_bytes=1017, codec="trellis", train_loss=2.0, tokens=9)
    kept = screened(update, update_bytes=1000)
    assert kept == events.UpdateReceived(round=1, client="a", uplink_bytes=1000, codec="trellis")

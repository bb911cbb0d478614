"""Alerts: what a rule tells of a real journal and ledger, by real commands and a webhook on loopback."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plait.alerts.beside import Following, alerts_beside
from plait.alerts.rules import Kind, Rule, load_rules
from plait.alerts.teller import MOST_WAITING, Teller
from plait.alerts.watcher import Watcher
from plait.errors import ConfigError
from plait.queue import Outcome, RunQueue
from plait.rounds.events import parse_event
from plait.rounds.ledger import Ledger
from tests.plait.conftest import CONFIG, evaluated, numbered, run_started, small_events


def until(condition: Callable[[], object], patience_s: float = 180.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def command(place: Path) -> list[str]:
    """One that appends each alert to a file."""
    write = f"import sys; open({str(place)!r}, 'a').write(sys.stdin.read() + chr(10))"
    return [sys.executable, "-c", write]


def told(place: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


@contextmanager
def webhook(statuses: list[int]) -> Iterator[tuple[str, list[tuple[str, dict[str, object]]]]]:
    """A server that answers so, one after the other; and what it was sent."""
    got: list[tuple[str, dict[str, object]]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append((self.headers.get("authorization", ""), body))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook?team=x", got
        server.shutdown()


def test_a_file_of_alerts_is_read_and_what_cannot_work_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "alerts.toml"
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "token").chmod(0o600)
    file.write_text('[[alert]]\nwebhook = "https://hooks.example.org/x"\ntoken-file = "token"\n'
                    '[[alert]]\non = ["run-ended"]\ncommand = ["/bin/true"]\n')  # fmt: skip
    first, second = load_rules(file)
    assert (first.on, first.token(), second.on) == (tuple(Kind), "s3cret", (Kind.RUN_ENDED,))
    assert "s3cret" not in repr(first)
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    for text, reason in (
        ("", "expected 1 to 16"),
        ("alert = 3", "expected 1 to 16"),
        ("[[alert]]", "expected command or webhook"),
        ('[[alert]]\ncommand = ["a"]\nwebhook = "https://b.example"', "one of them"),
        ('[[alert]]\nwebhook = "http://hooks.example.org"', "https://HOST"),
        ('[[alert]]\nwebhook = "https://me:pass@hooks.example.org"', "token-file"),
        ('[[alert]]\nwebhook = "file:///etc/passwd"', "https://HOST"),
        ('[[alert]]\ncommand = ["a"]\ntries = 99', "tries"),
        ('[[alert]]\ncommand = "rm -rf /"', "command"),
        ('[[alert]]\ncommand = ["a"]\nafter_minutes = 3', "after-minutes"),
        ('[[alert]]\ncommand = ["a"]\non = ["run-over"]', "on.0"),
        ('[[alert]]\nwebhook = "https://b.example"\ntoken-file = "open"', "others can read it"),
        ("[[alert", "is not TOML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=reason) as said:
            load_rules(file)
        assert "\n" not in str(said.value)
        assert "pass@" not in str(said.value)


def test_a_federation_tells_of_ends_missed_quorums_and_lost_clients_once(tmp_path: Path) -> None:
    place = tmp_path / "federation"
    queue = RunQueue(place)
    queue.submit({}, by="olga", number=1, name="old")
    queue.begin_next(wait_s=0)
    queue.end("old", Outcome.FAILED, "no client")
    since = time.time() + 0.001
    time.sleep(0.002)
    out = tmp_path / "told"
    following = Following(
        place, folder=True, rules=[Rule.model_validate({"command": command(out)})], since=since, line=None
    )
    following.look()
    queue.submit({}, by="olga", number=2, name="new")
    queue.begin_next(wait_s=0)
    run = queue.folder("new")
    run.mkdir()
    with_ledger = Ledger(run / "ledger.jsonl")
    for event in [*small_events()[:8], *numbered([{"event": "round_missed", "round": 1, "received": 1}])]:
        with_ledger.append(parse_event(event))
    with_ledger.close()
    following.look()
    queue.cancel("new", by="otto")
    queue.close()
    for _ in range(2):
        following.look()
    following.end()
    said = told(out)
    assert [(alert["alert"], alert["run"]) for alert in said] == [("quorum-missed", "new"), ("run-ended", "new")]
    assert said[1]["text"] == "run new is cancelled: cancelled by otto"


def test_a_client_is_lost_once_until_it_is_back() -> None:
    rule = Rule.model_validate({"command": ["x"], "on": ["client-lost"], "after-minutes": 60})
    watcher = Watcher(rule, since=0)
    assert watcher.of_away({"ann": 3599.0}) == []
    (alert,) = watcher.of_away({"ann": 3600.0, "bob": 5.0})
    assert (alert["client"], alert["text"]) == ("ann", "client ann is away for 60 minutes")
    assert watcher.of_away({"ann": 3700.0}) == []
    assert watcher.of_away({}) == []
    assert len(watcher.of_away({"ann": 4000.0})) == 1


@pytest.mark.parametrize(("tree", "peer"), [("", "client"), ("2x3", "region")])
def test_whoever_is_lost_is_called_what_the_run_has_even_if_it_began_before_the_server(tree: str, peer: str) -> None:
    rule = Rule.model_validate({"command": ["x"], "on": ["client-lost"]})
    watcher = Watcher(rule, since=2000.0)
    (began,) = numbered([run_started(config={**CONFIG, "tree": tree})])
    assert watcher.of_event("run", parse_event(began), is_queued=True) == []
    (alert,) = watcher.of_away({"north": 3600.0})
    assert (alert["client"], alert["peer"], alert["text"]) == ("north", peer, f"{peer} north is away for 60 minutes")


def test_a_loss_has_risen_once_until_it_falls_again() -> None:
    rule = Rule.model_validate({"command": ["x"], "on": ["loss-risen"], "rise": 0.1})
    watcher = Watcher(rule, since=0)
    losses = [4.0, 3.0, 3.2, 3.31, 3.5, 3.0, 3.4]
    scored = numbered([run_started(), *(evaluated(n, loss, {"ann": loss}) for n, loss in enumerate(losses))])
    alerts = [alert for event in scored for alert in watcher.of_event("run", parse_event(event), is_queued=True)]
    assert [(alert["round"], alert["loss"], alert["lowest"]) for alert in alerts] == [(3, 3.31, 3.0), (6, 3.4, 3.0)]


def test_a_webhook_gets_the_token_and_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "token").chmod(0o600)
    complaints: list[str] = []
    with webhook([500, 302, 200, 500, 500, 500]) as (address, got):
        rule = Rule.model_validate({"webhook": address, "token-file": str(tmp_path / "token"), "tries": 3})
        teller = Teller(rule, complain=complaints.append, pause_s=0.01)
        teller.put({"alert": "run-ended", "run": "first"})
        teller.put({"alert": "run-ended", "run": "second"})
        teller.close(120)
    assert [(token, alert["run"]) for token, alert in got] == [("Bearer s3cret", "first")] * 3 + [
        ("Bearer s3cret", "second")
    ] * 3
    assert complaints == ["alert run-ended was not told in 3 attempts: webhook answered 500"]


def test_a_command_that_hangs_is_ended_and_what_waits_too_long_is_dropped(tmp_path: Path) -> None:
    complaints: list[str] = []
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    rule = Rule.model_validate({"command": hangs, "timeout-s": 0.3, "tries": 1})
    teller = Teller(rule, complain=complaints.append)
    for _ in range(MOST_WAITING + 10):
        teller.put({"alert": "run-ended"})
    assert any("is dropped" in text for text in complaints)
    until(lambda: any("took longer than 0.3 s" in text for text in complaints))
    missing = Rule.model_validate({"command": [str(tmp_path / "none")], "tries": 1})
    other = Teller(missing, complain=complaints.append)
    other.put({"alert": "run-ended"})
    other.close(120)
    assert complaints[-1].endswith("FileNotFoundError")


class Desk:
    def status_json(self) -> str:
        return json.dumps({"nodes_away": [{"name": "bob", "away_s": 7200.0}]})


@pytest.mark.slow
def test_beside_a_server_of_one_run_alerts_are_told_by_a_process_that_ends_after_it(tmp_path: Path) -> None:
    run, out, file = tmp_path / "first", tmp_path / "told", tmp_path / "alerts.toml"
    run.mkdir()
    ledger = Ledger(run / "ledger.jsonl")
    file.write_text(f"[[alert]]\ncommand = {json.dumps(command(out))}\n")
    with alerts_beside(run, file, folder=False, desk=Desk()):  # type: ignore[arg-type]
        for event in small_events()[:8]:
            ledger.append(parse_event(event))
        until(lambda: told(out))
        assert [alert["client"] for alert in told(out)] == ["bob"]
    ledger.close()
    # The server is gone before its run was over.
    until(lambda: len(told(out)) == 2)
    assert told(out)[1]["text"] == "run first is interrupted"

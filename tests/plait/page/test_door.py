"""The door of the page: in process with a register on disk, and over TLS with certificates, links and sessions."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import Pipe
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from plait.address import Address
from plait.cli.main import app
from plait.errors import ConfigError, MachineError
from plait.page.app import MOST_OF_ONE
from plait.page.asking import ask_for_link
from plait.page.beside import page_beside
from plait.page.door import (
    MADE_WITHIN_S,
    MOST_LINKS,
    MOST_MADE,
    MOST_SESSIONS,
    SESSION_S,
    Door,
    TooManyError,
    TurnedAwayError,
    check_act,
)
from plait.page.line import Line, answering
from plait.page.passes import Visitor
from plait.queue import RunQueue
from plait.rounds.events import parse_event
from plait.rounds.ledger import Ledger
from plait.trust import Register, Role, StaffKit, provision, revoke
from plait.trust.certificate import Shown, key_digest, read_certificate
from tests.plait.conftest import small_events
from tests.plait.page.browser import CHROMIUM, Browser


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("kits")
    now = datetime.now(UTC)
    provision(home, ["ada"], ["localhost", "127.0.0.1"], operators=["olga", "otto"], observers=["ivo"], now=now)
    provision(home / "elsewhere", [], ["localhost"], operators=["olga"], now=now)
    return home


def shown(kit: Path, role: Role) -> Shown:
    certificate = read_certificate(kit / f"{role}.crt")
    return Shown(kit.name, role, key_digest(certificate.public_key()))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(kits: Path, clock: Clock) -> Door:
    return Door(Register.load(kits / "server"), clock=clock)


@pytest.fixture
def olga(kits: Path, door: Door) -> Visitor:
    return door.visitor(shown(kits / "operators" / "olga", Role.OPERATOR), "")


@pytest.fixture
def ivo(kits: Path, door: Door) -> Visitor:
    return door.visitor(shown(kits / "observers" / "ivo", Role.OBSERVER), "")


def test_a_link_lets_in_once_and_in_its_own_role(door: Door, olga: Visitor) -> None:
    link = door.make_link(olga, role=Role.OBSERVER, seconds=60)
    visitor, session = door.enter(link)
    assert (visitor.name, visitor.role, visitor.is_certified) == ("olga", Role.OBSERVER, False)
    assert door.visitor(None, session) == visitor
    with pytest.raises(TurnedAwayError, match="was used"):
        door.enter(link)
    for token in ("", link, session[:-1], "x" * 43, "é" * 43, "a" * 100_000):
        with pytest.raises(TurnedAwayError):
            door.visitor(None, token)
    with pytest.raises(TurnedAwayError):
        door.enter(session)


def test_links_and_sessions_end_in_time_and_are_bounded_in_number(door: Door, olga: Visitor, clock: Clock) -> None:
    links = [door.make_link(olga, role=Role.OPERATOR, seconds=60) for _ in range(MOST_LINKS + 1)]
    with pytest.raises(TurnedAwayError):
        door.enter(links[0])
    _, first = door.enter(links[1])
    clock.now = 61.0
    with pytest.raises(TurnedAwayError):
        door.enter(links[2])
    sessions = [door.enter(door.make_link(olga, role=Role.OPERATOR, seconds=60))[1] for _ in range(MOST_SESSIONS)]
    with pytest.raises(TurnedAwayError):
        door.visitor(None, first)
    assert door.visitor(None, sessions[0]).name == "olga"
    door.leave(sessions[0])
    with pytest.raises(TurnedAwayError):
        door.visitor(None, sessions[0])
    clock.now += SESSION_S
    with pytest.raises(TurnedAwayError):
        door.visitor(None, sessions[1])


def test_nobody_makes_a_link_for_more_than_its_own_role(door: Door, olga: Visitor, ivo: Visitor) -> None:
    with pytest.raises(TurnedAwayError, match="may not make an operator's link"):
        door.make_link(ivo, role=Role.OPERATOR, seconds=60)
    with pytest.raises(TurnedAwayError, match="may not make a client's link"):
        door.make_link(ivo, role=Role.CLIENT, seconds=60)
    visitor, _ = door.enter(door.make_link(olga, role=Role.OPERATOR, seconds=60))
    with pytest.raises(TurnedAwayError, match="no further links"):
        door.make_link(visitor, role=Role.OBSERVER, seconds=60)
    for seconds in (0, -1, 3601, float("nan"), float("inf")):
        with pytest.raises(TurnedAwayError, match="expected 1 to"):
            door.make_link(olga, role=Role.OBSERVER, seconds=seconds)


def test_nobody_fills_the_journal_with_links(door: Door, olga: Visitor, ivo: Visitor, clock: Clock) -> None:
    recorded: list[str] = []

    def make(maker: Visitor) -> None:
        door.make_link(maker, role=Role.OBSERVER, seconds=60, record=lambda: recorded.append(maker.name))

    for _ in range(MOST_MADE):
        make(olga)
    with pytest.raises(TooManyError, match="has made 60 links within an hour, expected fewer; the next one in 60 min"):
        make(olga)
    assert recorded == ["olga"] * MOST_MADE, "what is refused is not recorded"
    make(ivo)
    clock.now = MADE_WITHIN_S
    make(olga)
    assert recorded[-2:] == ["ivo", "olga"]


def test_a_link_that_cannot_be_recorded_is_none(door: Door, olga: Visitor) -> None:
    def fail() -> None:
        raise MachineError("the disk is full")

    with pytest.raises(MachineError):
        door.make_link(olga, role=Role.OBSERVER, seconds=60, record=fail)
    assert not door._links._held


def test_only_what_is_listed_may_be_asked_for_and_only_by_its_roles(olga: Visitor, ivo: Visitor) -> None:
    check_act(olga, "/api/queue/run-1/cancel")
    check_act(ivo, "/api/links")
    for visitor, path in ((ivo, "/api/queue/run-1/cancel"), (olga, "/api/runs"), (olga, "/api/queue/a/b/cancel")):
        with pytest.raises(TurnedAwayError, match="may not do that"):
            check_act(visitor, path)


def test_a_revoked_kit_ends_its_links_and_sessions(tmp_path: Path, clock: Clock) -> None:
    now = datetime.now(UTC)
    provision(tmp_path, [], ["localhost"], operators=["olga"], now=now)
    door = Door(Register.load(tmp_path / "server"), clock=clock)
    certificate = shown(tmp_path / "operators" / "olga", Role.OPERATOR)
    olga = door.visitor(certificate, "")
    left = door.make_link(olga, role=Role.OBSERVER, seconds=60)
    _, session = door.enter(door.make_link(olga, role=Role.OPERATOR, seconds=60))
    revoke(tmp_path, "olga", now=now)
    for given in ((certificate, ""), (None, session)):
        with pytest.raises(TurnedAwayError):
            door.visitor(*given)
    with pytest.raises(TurnedAwayError):
        door.enter(left)
    assert not door.may_stay(olga)


@dataclass
class Desk:
    """A server beside the page, which remembers what it was asked."""

    asked: list[tuple[object, ...]] = field(default_factory=list)
    status: str = "{}"

    def status_json(self) -> str:
        return self.status

    def cancel(self, by: str, run: str) -> str:
        if run == "over":
            raise ConfigError("run 'over' is over")
        self.asked.append(("cancel", by, run))
        return "running"

    def note_link(self, by: str, role: str, *, used: bool) -> None:
        self.asked.append(("used" if used else "made", by, role))


def test_the_line_carries_answers_and_refusals_and_says_when_it_is_cut() -> None:
    here, there = Pipe()
    desk = Desk(status='{"run": "first"}')
    thread = answering(here, desk)
    line = Line(there)
    assert line.status() == {"run": "first"}
    assert line.cancel("olga", "run-1") == "running"
    with pytest.raises(ConfigError, match="run 'over' is over"):
        line.cancel("olga", "over")
    there.send_bytes(b"[]")
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(MachineError, match="does not answer"):
        line.status()
    there.close()


@dataclass
class Served:
    address: str
    desk: Desk
    kits: Path
    folder: Path

    def client(self, who: str = "", **options: object) -> httpx.Client:
        """A client with somebody's certificate, or with none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.kits / "server" / "ca.crt")
        if who:
            kit = self.kits / who
            certificate = next(path for path in kit.glob("*.crt") if path.name != "ca.crt")
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return httpx.Client(base_url=self.address, verify=context, timeout=120, **options)

    @property
    def own(self) -> dict[str, str]:
        return {"origin": self.address, "content-type": "application/json"}


@pytest.fixture(scope="module")
def served(kits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a federation with one run, which has begun, beside a desk."""
    folder, desk = tmp_path_factory.mktemp("federation"), Desk()
    queue = RunQueue(folder)
    queue.submit({"base": "tiny", "rounds": 2, "clients": 2}, by="olga", number=7, name="first")
    queue.submit({"base": "tiny"}, by="otto", number=8, priority=3, cohort_labels=("gpu",), name="second")
    queue.close()
    (folder / "runs" / "first").mkdir()
    ledger = Ledger(folder / "runs" / "first" / "ledger.jsonl")
    for event in small_events()[:9]:
        ledger.append(parse_event(event))
    ledger.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"https://localhost:{probe.getsockname()[1]}"
    with page_beside(folder, address, folder=True, quiet=True, kit=kits / "server", desk=desk):
        yield Served(address, desk, kits, folder)


def test_without_a_certificate_or_a_link_nothing_is_shown(served: Served) -> None:
    with served.client() as nobody:
        assert "plait page-link" in nobody.get("/").text
        assert 'id="grid"' not in nobody.get("/").text
        for path in ("runs", "runs/first", "runs/first/events", "queue", "me", "openapi.json"):
            assert nobody.get(f"/api/{path}").status_code == 401, path
        for path in ("/api/queue/first/cancel", "/api/links", "/api/leave", "/api/runs"):
            assert nobody.post(path, headers=served.own, content="{}").status_code == 401, path
    with served.client("clients/ada") as ada, served.client("server") as server:
        for one in (ada, server):
            for path in ("/", "/api/runs", "/api/queue"):
                answer = one.get(path)
                assert (answer.status_code, "may not look" in answer.text) == (403, True)
    with served.client("elsewhere/operators/olga") as stranger, pytest.raises(httpx.TransportError):
        stranger.get("/api/runs")
    assert not served.desk.asked


def test_links_that_are_refused_are_not_recorded(served: Served) -> None:
    before = list(served.desk.asked)
    with served.client("observers/ivo") as ivo:
        for said, status in (
            ('{"role": "operator", "minutes": 5}', 403),
            ('{"role": "observer", "minutes": 600}', 403),
            (f'{{"role": "observer", "minutes": 1{"0" * 400}}}', 400),
        ):
            assert ivo.post("/api/links", headers=served.own, content=said).status_code == status
    assert served.desk.asked == before


def test_too_many_links_are_told_so(served: Served) -> None:
    with served.client("observers/ivo") as ivo:
        said = '{"role": "observer", "minutes": 5}'
        answers = [ivo.post("/api/links", headers=served.own, content=said) for _ in range(MOST_MADE + 1)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert "has made 60 links" in answers[-1].json()["error"]
    served.desk.asked.clear()


def test_an_observer_looks_and_an_operator_cancels(served: Served) -> None:
    with served.client("observers/ivo") as ivo:
        assert ivo.get("/api/me").json() == {"name": "ivo", "role": "observer", "may_cancel": False, "may_leave": False}
        runs = ivo.get("/api/queue").json()["runs"]
        assert [(run["run"], run["state"], run["by"], run["priority"]) for run in runs] == [
            ("second", "queued", "otto", 3), ("first", "queued", "olga", 0),
        ]  # fmt: skip
        refused = ivo.post("/api/queue/first/cancel", headers=served.own, content="{}")
        assert (refused.status_code, refused.json()) == (403, {"error": "observer 'ivo' may not do that"})
    assert not served.desk.asked
    with served.client("operators/olga") as olga:
        assert olga.get("/api/me").json()["may_cancel"]
        answer = olga.post("/api/queue/first/cancel", headers=served.own, content="{}")
        assert answer.json() == {"run": "first", "was": "running"}
        refused = olga.post("/api/queue/over/cancel", headers=served.own, content="{}")
        assert (refused.status_code, refused.json()) == (400, {"error": "run 'over' is over"})
    assert served.desk.asked == [("cancel", "olga", "first")]
    served.desk.asked.clear()


def test_an_act_that_the_page_did_not_ask_for_is_refused(served: Served) -> None:
    with served.client("operators/olga") as olga:
        for headers, status in (
            ({"content-type": "application/json"}, 403),
            ({**served.own, "origin": "https://evil.example"}, 403),
            ({**served.own, "origin": "null"}, 403),
            ({**served.own, "origin": served.address.replace("https", "http")}, 403),
            ({**served.own, "sec-fetch-site": "cross-site"}, 403),
            ({**served.own, "host": "evil.example", "origin": "https://evil.example"}, 403),
            ({**served.own, "content-type": "text/plain"}, 415),
            ({"origin": served.address}, 415),
        ):
            assert olga.post("/api/queue/first/cancel", headers=headers, content="{}").status_code == status, headers
        for body in ("", "[]", '{"more": 1}', "{" * 5000, "[" * 4000, "x" * 100_000):
            assert olga.post("/api/queue/first/cancel", headers=served.own, content=body).status_code == 400
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert olga.request(method, "/api/queue/first/cancel", headers=served.own).status_code == 405
        for said in (
            {"role": "client", "minutes": 5},
            {"role": "observer", "minutes": True},
            {"role": 1, "minutes": "x"},
        ):
            answer = olga.post("/api/links", headers=served.own, content=json.dumps(said))
            assert answer.status_code in (400, 403)
    assert not [asked for asked in served.desk.asked if asked[0] == "cancel"]
    served.desk.asked.clear()


def test_a_link_becomes_a_cookie_that_no_script_and_no_other_site_can_use(served: Served) -> None:
    kit = StaffKit.load(served.kits / "operators" / "olga")
    link = ask_for_link(Address.parse(served.address.removeprefix("https://")), kit, role="operator", minutes=5)
    place, _, token = link.partition("#")
    assert place == f"{served.address}/enter"
    with served.client() as somebody:
        answer = somebody.post("/api/enter", headers=served.own, content=json.dumps({"link": token}))
        assert answer.json() == {"name": "olga", "role": "operator"}
        cookie = answer.headers["set-cookie"].lower()
        assert cookie.startswith("__host-plait=")
        assert {part.strip() for part in cookie.split(";")[1:]} == {
            "httponly", "secure", "samesite=strict", "path=/", f"max-age={int(SESSION_S)}",
        }  # fmt: skip
        assert somebody.get("/api/me").json() == {
            "name": "olga", "role": "operator", "may_cancel": True, "may_leave": True,
        }  # fmt: skip
        assert 'id="grid"' in somebody.get("/").text
        again = json.dumps({"role": "observer", "minutes": 5})
        assert somebody.post("/api/links", headers=served.own, content=again).status_code == 403
        with served.client() as late:
            assert late.post("/api/enter", headers=served.own, content=json.dumps({"link": token})).status_code == 401
        session = answer.cookies["__Host-plait"]
        assert somebody.post("/api/leave", headers=served.own, content="{}").status_code == 200
    with served.client(cookies={"__Host-plait": session}) as left:
        assert left.get("/api/me").status_code == 401
    assert served.desk.asked[:2] == [("made", "olga", "operator"), ("used", "olga", "operator")]
    served.desk.asked.clear()


def test_no_visitor_keeps_the_others_from_watching(served: Served) -> None:
    path = "/api/runs/first/events"
    with served.client("observers/ivo") as ivo, served.client("operators/olga") as olga, ExitStack() as open_streams:
        reading = []
        for _ in range(MOST_OF_ONE):
            reading.append(open_streams.enter_context(ivo.stream("GET", path)).iter_lines())
            assert next(reading[-1])
        with ivo.stream("GET", path) as refused:
            assert refused.status_code == 503
            assert json.loads(refused.read()) == {"error": "16 pages are open already, expected fewer"}
        with olga.stream("GET", path) as response:
            assert response.status_code == 200


def test_a_stream_ends_soon_after_its_kit_is_revoked(served: Served) -> None:
    with served.client("operators/otto") as otto, otto.stream("GET", "/api/runs/first/events") as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("id: "))
        revoke(served.kits, "otto", now=datetime.now(UTC))
        ledger = Ledger(served.folder / "runs" / "first" / "ledger.jsonl")
        ledger.append(parse_event(small_events()[9]))
        ledger.close()
        assert not [line for line in lines if line.startswith("id: ")]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser_a_link_opens_the_page_and_its_operator_cancels_a_run(served: Served) -> None:
    def text(place: str) -> str:
        return f"document.querySelector('{place}').textContent"

    kit = StaffKit.load(served.kits / "operators" / "olga")
    place = Address.parse(served.address.removeprefix("https://"))
    link = ask_for_link(place, kit, role="operator", minutes=5)
    served.desk.status = json.dumps(
        {
            "run": "first",
            "nodes": [{"name": "ann", "doing": "round 1: training, step 3", "is_uploading": True}],
            "nodes_away": [{"name": "bob", "away_s": 3.0}],
        }
    )
    served.desk.asked.clear()
    with Browser() as browser:
        browser.call("Security.setIgnoreCertificateErrors", ignore=True)
        browser.open(served.address)
        browser.wait(f"{text('#door')}.includes('plait page-link')")
        browser.open(link)
        browser.wait(f"{text('#me')}.includes('olga, operator')")
        # What the server sees now stands before what the ledger says.
        browser.wait(f"{text('#legend')} === '1 uploading1 away'")
        assert "Queue: 2 waiting" in str(browser.js(text("#queue-title")))
        cancel = "[...document.querySelectorAll('#queue button')].at(-1)"
        browser.js(f"{cancel}.click()")
        assert browser.js(f"{cancel}.textContent") == "Really cancel"
        assert served.desk.asked == [("used", "olga", "operator")]
        browser.js(f"{cancel}.click()")
        browser.wait(f"{text('#queue-text')} === 'first is cancelled.'")
        assert served.desk.asked[1:] == [("cancel", "olga", "first")]
        assert browser.js("document.cookie") == ""
        browser.js("document.querySelector('#me button').click()")
        browser.wait(f"{text('#door')}.includes('plait page-link')")
        browser.open(link)
        browser.wait(f"{text('#door')}.includes('was used')")
        assert not [each for each in browser.complaints() if "401" not in each]
    served.desk.asked.clear()


@pytest.mark.slow
def test_a_page_for_others_without_a_kit_and_a_link_without_one_are_refused(tmp_path: Path) -> None:
    for command, expected in (
        (["server", "--insecure", "--page", "0.0.0.0:0"], "--page is 0.0.0.0:0"),
        (["server", "--insecure", "--page", "https://127.0.0.1:0"], "or with it a server's --kit"),
        (["watch", str(tmp_path), "--listen", "0.0.0.0:0"], "--listen is 0.0.0.0:0"),
        (["page-link"], "--kit is missing"),
        (["page-link", "--kit", ".", "--role", "client"], "expected operator or observer"),
    ):
        said = CliRunner().invoke(app, command)
        assert isinstance(said.exception, ConfigError), command
        assert expected in str(said.exception)

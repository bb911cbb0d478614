"""The page over HTTP, in a process of its own as `plait report --live` runs it; with Chromium where there is one."""

import json
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from multiprocessing import Pipe
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from plait.errors import ConfigError
from plait.ledger.events import parse_event
from plait.ledger.ledger import Ledger
from plait.page.beside import TOKEN_VARIABLE, answer, page_token
from plait.page.feed import Feed, Live
from tests.commands import Command
from tests.plait.page.browser import CHROMIUM, Browser
from tests.plait.serving import Start, serving

TOKEN = "a-token-that-tests-know-" + "x" * 16


def cookie(address: str) -> dict[str, str]:
    """What a browser sends that has opened the printed address."""
    return {"cookie": f"plait-{address.split(':')[2].partition('/')[0]}={TOKEN}"}


def get(url: str) -> httpx.Response:
    return httpx.get(url, headers=cookie(url), timeout=120)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts `plait report --live`; gives the process and the address, without its token."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)

    with serving("report", "--live") as start:

        def begin(*options: object, **more: str) -> tuple[Command, str]:
            process, address = start(*options, **more)
            assert address.endswith(f"/?token={TOKEN}")
            return process, address.partition("/?")[0]

        yield begin


def written(run: Path, events: Sequence[dict[str, object]]) -> Ledger:
    run.mkdir()
    ledger = Ledger(run / "ledger.jsonl")
    for event in events:
        ledger.append(parse_event(event))
    return ledger


def test_a_look_gives_the_run_as_of_now_and_what_has_not_changed_is_not_sent_again(watch, tmp_path, small_run):
    ledger = written(tmp_path / "first", small_run[:3])
    _, address = watch(tmp_path / "first")
    place, tag = f"{address}/api/runs/first", ""
    for event in small_run[3:]:
        ledger.append(parse_event(event))
        answer = httpx.get(place, headers={**cookie(address), "if-none-match": tag}, timeout=120)
        assert answer.json()["document"]["seq"] == ledger._end.events - 1
        tag = answer.headers["etag"]
        assert httpx.get(place, headers={**cookie(address), "if-none-match": tag}, timeout=120).status_code == 304
    ledger.close()


def test_a_changed_ledger_is_shown_as_broken_and_so_is_an_unreadable_one(write_ledger, small_run):
    run = write_ledger(small_run)
    ledger = run / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[:10], lines[10].replace(b"3000", b"3001"), *lines[11:]]))
    document = json.loads(Feed(run).document())
    assert "line 11" in document["broken"]
    assert document["seq"] == len(lines) - 1
    for line in (b"{]", b"[" * 100_000):
        ledger.write_bytes(b"".join([*lines[:5], line, b"\n"]))
        feed = Feed(run)
        assert "not an event" in json.loads(feed.document())["broken"]
        assert feed.document() == feed.document()


def test_what_the_server_sees_now_is_told_and_a_late_answer_is_no_end_of_it():
    here, there = Pipe()
    answer(here, lambda: json.dumps({"run": "first", "nodes_away": [{"name": "bob"}]}))
    live = Live(there)
    assert live.of("first") == {"bob": {"state": "away"}}
    assert live.of("second") == {}
    there.close()
    live._asked = 0.0
    assert live.of("first") == {}


def test_every_answer_has_the_security_policy(watch, write_ledger, small_run):
    _, address = watch(write_ledger(small_run))
    for path in ("/", "/assets/page.js", "/api/runs", "/none"):
        headers = get(address + path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_the_page_names_no_other_place():
    for file in (files("plait.page") / "assets").iterdir():
        if file.name.endswith(".LICENSE"):
            continue
        named = set(
            re.findall(r"""(?:src|href|url|import|fetch|EventSource)[\s("'`=]*(https?:)?//[\w.]+""", file.read_text())
        )
        assert not named, file.name


def test_only_with_the_token_is_anything_shown_and_the_address_turns_it_into_a_cookie(watch, write_ledger, small_run):
    run = write_ledger(small_run)
    _, address = watch(run)
    port = address.rpartition(":")[2]
    for said in (TOKEN[:-1], "\udcff" * 40, "é" * 40):
        query = urlencode({"token": said}, errors="surrogateescape")
        kept = {"cookie": f"plait-{port}={said}".encode(errors="surrogateescape")}
        for path in ("/", f"/api/runs/{run.name}"):
            assert httpx.get(f"{address}{path}?{query}", timeout=120).status_code == 401, (path, said)
            assert httpx.get(address + path, headers=kept, timeout=120).status_code == 401, (path, said)
    with httpx.Client(base_url=address, timeout=120) as browser:
        answer = browser.get("/", params={"token": TOKEN})
        assert (answer.status_code, 'id="grid"' in answer.text) == (200, True)
        kept = answer.headers["set-cookie"]
        assert kept == f"plait-{port}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
        assert browser.get("/api/runs").status_code == 200
        assert "set-cookie" not in browser.get("/api/runs", params={"token": TOKEN}).headers


def test_tokens_are_random_and_a_weak_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    made = {page_token() for _ in range(100)}
    assert len(made) == 100
    assert all(len(token) == 43 for token in made)
    for weak in ("secret", "x" * 31, "x" * 40 + "&run=first", "ä" * 40):
        monkeypatch.setenv(TOKEN_VARIABLE, weak)
        with pytest.raises(ConfigError, match="PLAIT_PAGE_TOKEN is not a token"):
            page_token()


def test_its_own_page_and_a_link_from_anywhere_are_answered_and_no_path_leads_out(watch, write_ledger, small_run):
    _, address = watch(write_ledger(small_run))

    def status(path: str = "", **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(address + path, headers={**cookie(address), **named}, timeout=120).status_code

    assert status("/api/runs", origin=address, sec_fetch_site="same-origin") == 200
    assert status(sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 200
    assert status("/api/runs", sec_fetch_site="cross-site") == 403
    for path in ("/assets/..%2fapp.py", "/assets/page.py", "/api/runs/..", "/api/runs/%2e%2e", "/api/runs/a%2fb", "/x"):
        assert status(path) == 404, path


def test_what_another_name_site_or_origin_asks_for_is_refused_and_nothing_can_be_changed(
    watch, write_ledger, small_run
):
    _, address = watch(write_ledger(small_run))
    port = address.rpartition(":")[2]
    led = [
        *({"host": host} for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}")),
        *({"origin": origin} for origin in ("http://evil.example", "null", "http://127.0.0.1:1")),
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ]
    for headers in led:
        for path in ("/", "/api/runs", f"/?token={TOKEN}"):
            answer = httpx.get(address + path, headers={**cookie(address), **headers}, timeout=120)
            assert (answer.status_code, "set-cookie" in answer.headers) == (403, False), headers
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert httpx.request(method, f"{address}/api/runs", headers=cookie(address), timeout=120).status_code == 405
    # A cookie of another port, or a token where none belongs.
    for wrong in ({"cookie": f"plait-1={TOKEN}"}, {"authorization": f"Bearer {TOKEN}"}):
        assert httpx.get(f"{address}/api/runs", headers=wrong, timeout=120).status_code == 401


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with Browser() as one:
        yield one


FILLS = "({ plot, place }) => plot.height + place.querySelector('.u-legend').offsetHeight === place.clientHeight"
"""Whether a chart and its legend take all of their place."""


def test_in_a_browser_each_panel_shows_the_ledger_and_goes_on_after_a_restart(browser, watch, tmp_path, small_run):
    ledger = written(tmp_path / "first", small_run[:9])
    written(tmp_path / "second", small_run[:12]).close()
    process, address = watch(tmp_path / "first", tmp_path / "second")
    browser.open(f"{address}/?token={TOKEN}")
    browser.wait("document.querySelector('#legend')?.textContent.includes('1 training')")
    assert "1 chosen" in str(browser.js("document.querySelector('#legend').textContent"))
    assert "token" not in str(browser.js("location.href")), "the address can be shown and copied"
    for event in small_run[9:20]:
        ledger.append(parse_event(event))
    browser.wait("plaitPage.run.document.seq === 19")
    process.kill()
    process.wait()
    for event in small_run[20:]:
        ledger.append(parse_event(event))
    ledger.close()
    browser.wait("document.querySelector('#link').textContent.includes('no connection')")
    watch(tmp_path / "first", tmp_path / "second", listen=address.removeprefix("http://"))
    browser.wait("document.querySelector('#link').textContent === 'complete'")
    shown = browser.wait(
        "document.querySelector('#chain').textContent.includes('25 events') && document.body.innerText"
    )
    for text in (
        "2 of 2 rounds done",
        "3.000",
        "no guarantee",
        "Nothing was refused",
        "14.1 kB",
        "Side by side",
        "second",
    ):
        assert text in str(shown), text
    assert (
        json.loads(str(browser.js("JSON.stringify(plaitPage.run.document)")))
        == get(f"{address}/api/runs/first").json()["document"]
    )
    assert browser.js("document.querySelectorAll('.chart canvas').length") == 2
    for name in ("loss", "bytes"):
        browser.wait(f"({FILLS})(plaitPage.charts.{name})", timeout_s=180)
    assert "round2" in str(browser.js("document.querySelector('#loss .u-legend').textContent"))
    # A server that is away is the only complaint.
    assert all("ERR_" in text for text in browser.complaints())
    assert {url.partition("://")[2].partition("/")[0] for url in browser.requested() if url.startswith("http")} == {
        address.removeprefix("http://")
    }


def test_in_a_browser_hostile_names_stay_text(browser, watch, tmp_path, hostile_run):
    written(tmp_path / "hostile", hostile_run).close()
    _, address = watch(tmp_path / "hostile")
    browser.open(f"{address}/?token={TOKEN}")
    browser.wait("document.querySelector('#refusals').textContent.includes('holds NaN')")
    browser.js("document.querySelector('#all').open = true")
    shown = get(f"{address}/api/runs/hostile").json()["document"]["clients"]
    browser.wait(f"document.querySelectorAll('#table tbody tr').length === {len(shown)}")
    assert browser.js("document.querySelectorAll('main script, main img, #refusals b').length") == 0
    assert "\\u202e" not in ascii(browser.js("document.body.innerText"))
    assert "\\x1b" not in ascii(browser.js("document.body.innerText"))
    for width in (1280, 390):
        browser.resize(width, 900)
        cut = "[...document.querySelectorAll('.table, html')].filter((each) => each.scrollWidth > each.clientWidth)"
        browser.wait(f"{cut}.length === 0", timeout_s=20)
    # A ledger's times are whatever its writer's clocks said.
    assert browser.js("import('/assets/format.js').then((as) => as.duration(-0.3))") == "0.0 s"

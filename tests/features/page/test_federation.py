"""The page of a real federation in a browser, whose server is killed and started again meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.features.page.browser import CHROMIUM, Browser
from tests.features.page.federation import enter, federation, submit, watch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

NAMES = ("alice", "bob", "carol")


def test_panels_show_the_ledger_while_it_grows_and_lose_no_event_when_the_server_is_killed(tmp_path: Path) -> None:
    with federation(tmp_path, dict.fromkeys(NAMES, 40)) as there, Browser(height=2000) as browser:
        for name in NAMES:
            there.join(name)
        submit(there, "first", rounds=30)
        there.until(lambda: there.lines("first"))
        enter(browser, there, "first")
        browser.wait("plaitPage.run.linked")
        before = browser.js("plaitPage.run.document.seq - plaitPage.run.patches")
        watch(browser, there, "first", lambda: there.has("first", "round_finished", round=2))
        there.kill()
        browser.wait("document.querySelector('#link').textContent.includes('no connection')")
        there.open()
        watch(browser, there, "first", lambda: there.has("first", "run_finished"))
        assert there.has("first", "resumed")
        # Every event has come, and each of them once.
        assert browser.js("plaitPage.run.document.seq - plaitPage.run.patches") == before
        document = browser.js("fetch('/api/runs/first').then((answer) => answer.json())")
        assert browser.js("JSON.parse(JSON.stringify(plaitPage.run.document))") == document

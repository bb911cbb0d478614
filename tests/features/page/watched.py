"""Watches a real federation through its page in headless Chromium, and compares panels with ledgers.

    python tests/features/page/watched.py

A standing server, five clients over gRPC: one is refused, for it has next to no data, and one goes away in the
middle. The server is killed and started again while the first run goes on. The other two runs are private, and one that
learns far too fast. Prints one JSON line for each.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.features.page.browser import Browser
from tests.features.page.federation import enter, federation, submit, watch

RUNS = {
    "first": {"rounds": 8, "local_steps": 40},
    "private": {"dp": "client", "dp_noise_multiplier": 0.6, "own_share": 0.0},
    "too-fast": {"learning_rate": 0.9, "keep": "best", "rounds": 6},
}


def main() -> None:
    """Print what was compared."""
    records = {**dict.fromkeys(("alice", "bob", "carol", "dave"), 60), "erin": 2}
    with tempfile.TemporaryDirectory() as scratch, federation(Path(scratch), records) as there, Browser() as browser:
        for name in records:
            there.join(name)
        for name, settings in RUNS.items():
            submit(there, name, **settings)
        there.until(lambda: there.lines("first"))
        enter(browser, there, "first")
        browser.js("document.querySelector('#all').open = true")
        compared = watch(browser, there, "first", lambda: there.has("first", "update_received", round=3))
        there.kill()
        browser.wait("document.querySelector('#link').textContent.includes('no connection')")
        there.processes.pop("dave").kill()
        there.open()
        compared += watch(browser, there, "first", lambda: there.has("first", "run_finished"))
        say("first", compared, there.lines("first"))
        for name in list(RUNS)[1:]:
            there.until(lambda name=name: there.lines(name))
            browser.open(f"http://{there.page}/?run={name}")
            browser.wait(f"plaitPage.run?.name === '{name}'")
            browser.js("document.querySelector('#all').open = true")
            compared = watch(browser, there, name, lambda name=name: there.has(name, "run_finished"))
            say(name, compared, there.lines(name))
        complaints = browser.complaints()
        print(json.dumps({"complaints": complaints}))


def say(run: str, compared: int, lines: list) -> None:
    """Print what was compared of a run."""
    kinds = sorted({line["event"] for line in lines})
    print(json.dumps({"run": run, "events": len(lines), "compared at": compared, "kinds": kinds}), flush=True)


if __name__ == "__main__":
    main()

"""Watches a real federation through its page in headless Chromium, and compares panels with ledgers; takes pictures.

    python tests/features/page/watched.py [--pictures DIR]

A server that stays, five clients over gRPC: one is refused, for it has next to no data, and one goes away in the
middle. The server is killed and started again while the first run goes on. The other two runs are private, and one that
learns far too fast. Prints one JSON line for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
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
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pictures", type=Path)
    options = arguments.parse_args()
    records = {**dict.fromkeys(("alice", "bob", "carol", "dave"), 60), "erin": 2}

    def picture(name: str) -> None:
        if options.pictures:
            browser.picture(options.pictures / f"page-{name}.png")

    with tempfile.TemporaryDirectory() as scratch, federation(Path(scratch), records) as there, Browser() as browser:
        for name in records:
            there.join(name)
        for name, settings in RUNS.items():
            submit(there, name, **settings)
        there.until(lambda: there.lines("first"))
        enter(browser, there, "first")
        browser.js("document.querySelector('#all').open = true")
        compared = watch(browser, there, "first", lambda: there.has("first", "update_received", round=3))
        browser.js("document.querySelector('#all').open = false")
        picture("running")
        browser.js("document.querySelector('#all').open = true")
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
        for name, run, width, dark in (
            ("finished", "first", 1280, False), ("refused", "too-fast", 1280, False),
            ("dark", "first", 1280, True), ("narrow", "first", 390, False), ("private", "private", 1280, False),
        ):  # fmt: skip
            browser.resize(width, 900 if width > 500 else 844)
            browser.set_dark(dark=dark)
            browser.open(f"http://{there.page}/?run={run}")
            browser.wait(f"plaitPage.run?.name === '{run}' && plaitPage.isDrawn && plaitPage.charts.bytes.plot")
            if name == "refused":
                refused = "plaitPage.grid.cells.findIndex((one) => one.state === 'refused')"
                browser.js(f"plaitPage.grid.take({refused})")
            time.sleep(1)
            picture(name)
        complaints = browser.complaints()
        print(json.dumps({"complaints": complaints}))


def say(run: str, compared: int, lines: list) -> None:
    """Print what was compared of a run."""
    kinds = sorted({line["event"] for line in lines})
    print(json.dumps({"run": run, "events": len(lines), "compared at": compared, "kinds": kinds}), flush=True)


if __name__ == "__main__":
    main()

"""Measures the live page in headless Chromium: bytes, first paint, frames per second, accessibility.

    python tests/features/page/measure.py [--axe axe.min.js]

A ledger of 1,000 clients and 200 rounds of 50 is written first; then rounds go on while frames are counted. An empty
page beside it says what this browser on this machine is capable of, without a GPU and with whatever else is running.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from plait.rounds.events import parse_event
from plait.rounds.ledger import Ledger
from tests.features.page.browser import Browser
from tests.plait.conftest import broadcast, described, evaluated, received, round_finished, run_started
from tests.plait.serving import serving

CLIENTS, ROUNDS, COHORT = 1000, 200, 50
_FRAMES = """new Promise((done) => {
  const times = [];
  const next = (now) => { times.push(now); times.length < %d ? requestAnimationFrame(next) : done(times); };
  requestAnimationFrame(next);
})"""


def a_round(number: int, names: list[str], *, refused: int = 0) -> Iterator[dict[str, object]]:
    """One round: its cohort moves on through all clients."""
    cohort = [names[(number * COHORT + i) % len(names)] for i in range(min(COHORT, len(names)))]
    yield {"event": "round_started", "round": number, "cohort": cohort}
    for name in cohort:
        yield broadcast(number, name, 1000)
    for i, name in enumerate(cohort):
        if i < refused:
            detail = "norm of the update is 41.2, expected at most 3.1"
            yield {"event": "update_refused", "round": number, "client": name, "reason": "norm", "detail": detail}
        else:
            yield received(number, name, 3000, tokens=100, train_s=2.0)
    yield round_finished(number, len(cohort) - refused)
    loss = 2.5 + 1.5 / (1 + number / 20)
    yield evaluated(number, loss, {name: loss + 0.1 * (i % 7 - 3) / 3 for i, name in enumerate(cohort)})


def write(folder: Path, clients: int, rounds: int, *, refused: int = 0, finished: bool = False) -> Ledger:
    """A run; the ledger stays open."""
    names = [f"client-{number:04d}" for number in range(clients)]
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.jsonl")
    begun = run_started(name=folder.name, config={"rounds": rounds})
    start = [begun, described(*names), evaluated(0, 4.0, dict.fromkeys(names[:COHORT], 4.0))]
    events = [
        *start,
        *(e for n in range(1, rounds + 1) for e in a_round(n, names, refused=refused if n == rounds else 0)),
    ]
    if finished:
        events.append({"event": "run_finished", "adapter": "12" * 32, "wall_s": 60.0})
    for event in events:
        ledger.note(parse_event({"seq": 0, "time": 0.0, "hash": "", **event}))
    return ledger


def main() -> None:
    """Print one JSON line for each figure."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--axe", type=Path)
    options = arguments.parse_args()
    say(
        "bytes",
        sum(
            len(f.read_bytes()) for f in (files("plait.features.page") / "assets").iterdir() if "LICENSE" not in f.name
        ),
    )
    with tempfile.TemporaryDirectory() as scratch, serving("watch") as start, Browser() as browser:
        place = Path(scratch) / "runs"
        write(place / "refusing", 24, 6, refused=3).close()
        write(place / "finished", 24, 12, finished=True).close()
        ledger = write(place / "large", CLIENTS, ROUNDS)
        _, address = start(place)
        large = f"{address}&run=large"
        browser.open(large)
        browser.wait("plaitPage.run?.document.done === 200", timeout_s=600)
        paints = []
        for _ in range(5):
            browser.open(large)
            browser.wait("performance.getEntriesByName('first-contentful-paint').length")
            paints.append(browser.js("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        say("first contentful paint, ms, median and all of 5", [statistics.median(paints), paints])
        browser.wait("plaitPage.run?.document.done === 200", timeout_s=600)
        over = threading.Event()

        def go_on() -> None:
            names = [f"client-{number:04d}" for number in range(CLIENTS)]
            for number in range(ROUNDS + 1, ROUNDS + 100):
                for event in a_round(number, names):
                    ledger.note(parse_event({"seq": 0, "time": 0.0, "hash": "", **event}))
                    time.sleep(0.01)
                    if over.is_set():
                        return

        writer = threading.Thread(target=go_on)
        writer.start()
        for _ in range(3):
            count_frames(browser, "with 100 events a second")
        over.set()
        writer.join()
        ledger.close()
        browser.open("about:blank")
        for _ in range(3):
            count_frames(browser, "of an empty page")
        say("load average and processors", [os.getloadavg()[0], os.cpu_count()])
        views = (
            ("finished", "finished", 1280, False), ("refused", "refusing", 1280, False),
            ("dark", "finished", 1280, True), ("narrow", "finished", 390, False), ("running", "large", 1280, False),
        )  # fmt: skip
        for name, run, width, dark in views:
            browser.resize(width, 900 if width > 500 else 844)
            browser.set_dark(dark=dark)
            browser.open(f"{address}&run={run}")
            browser.wait(f"plaitPage.run?.name === '{run}' && document.querySelector('#chain').textContent")
            browser.wait("document.querySelectorAll('#loss canvas').length")
            if options.axe:
                browser.js(options.axe.read_text())
                found = browser.js(
                    "axe.run().then(({violations}) => violations.map((v) => [v.impact, v.id, v.nodes.length]))"
                )
                say(f"axe-core, {name}", found)


def count_frames(browser: Browser, what: str) -> None:
    """Print how many there are in a second, over 300 of them."""
    times = browser.js(_FRAMES % 301)
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    say(f"frames per second {what}", round(1000 * len(gaps) / (times[-1] - times[0]), 1))
    say("frame, ms: median, 95th percentile, longest", [round(gaps[at], 1) for at in (150, 285, -1)])


def say(what: str, figure: object) -> None:
    """Print one figure."""
    print(json.dumps({what: figure}), flush=True)


if __name__ == "__main__":
    main()

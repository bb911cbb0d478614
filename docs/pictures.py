"""Make the pictures of the documentation: a plot of a committed experiment, the report and the live page.

    python -m docs.pictures [loss] [report] [page]

`loss` draws held-out loss against what a client has sent, mean over the seven judging texts of `simulations/defaults`,
ten rounds. The others are what headless Chromium shows, in light and dark and at several widths. Eight simulated
clients train `tiny` for five rounds with seed 0. Made up are the losses and sizes of the crowd, which is that run with
a thousand clients, and the norm for which the unfinished run refuses an update.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

import plait
from plait.ledger.events import (
    ClientScore,
    ClientsDescribed,
    DescribedClient,
    Evaluated,
    Event,
    UpdateReceived,
    UpdateRefused,
    parse_event,
)
from plait.ledger.ledger import Ledger, read_events
from plait.ledger.run_view import RunView
from plait.report.html import render_html
from plait.report.plots import draw_svgs
from plait.report.theme import palette_css
from tests.plait.page.browser import Browser
from tests.plait.serving import serving

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "simulations/defaults/results-judging-ten.jsonl"
CLIENTS = 4
NAMED = {"defaults, wire fp32": "raw adapter, float32", "defaults, wire 1": "plait, 1 bit"}
SCHEMES = {
    "light": {"ink": "#1f2328", "grid": "#d1d9e0", "lines": ("#8a929b", "#0969da")},
    "dark": {"ink": "#e6edf3", "grid": "#3d444d", "lines": ("#9198a1", "#58a6ff")},
}
SIZES = {"wide": (1280, 1000), "middle": (820, 1100), "narrow": (390, 1500)}


def series() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Megabytes that a client has sent after each round, and the loss then, by the name of the line."""
    sent, losses = defaultdict(list), defaultdict(list)
    for row in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()):
        if (name := NAMED.get(row["cell"])) and row["seed"] == 0:
            sent[name].append(row["uplink_bytes"] / CLIENTS / (len(row["losses"]) - 1) / 1e6)
            losses[name].append(row["losses"])
    return {
        name: (np.mean(sent[name]) * np.arange(1, len(losses[name][0])), np.mean(losses[name], axis=0)[1:])
        for name in NAMED.values()
    }


def draw(path: Path, scheme: str) -> None:
    """One picture."""
    colours = SCHEMES[scheme]
    mpl.rcParams.update({"svg.hashsalt": "plait", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11})
    figure, axes = plt.subplots(figsize=(7.2, 3.0))
    for (name, (sent, losses)), colour in zip(series().items(), colours["lines"], strict=True):
        axes.plot(sent, losses, "o-", color=colour, markersize=4, linewidth=2)
        axes.annotate(name, (sent[0], losses[0]), (8, 4), textcoords="offset points", color=colour, weight="bold")
    axes.set_xscale("log")
    axes.set_xticks([0.3, 1, 3, 10, 30, 100], ["0.3", "1", "3", "10", "30", "100"])
    axes.minorticks_off()
    axes.set_xlabel("megabytes that a client has sent", color=colours["ink"])
    axes.set_ylabel("held-out loss", color=colours["ink"])
    axes.tick_params(colors=colours["ink"], length=0)
    axes.grid(color=colours["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def crowd(events: Sequence[Event], count: int = 1000) -> list[Event]:
    """A run's events as if it had so many clients, of whom its own took part."""
    rng = np.random.default_rng(0)
    names = [f"phone-{number:04}" for number in range(count)]
    sizes, losses = rng.lognormal(8, 1, count), rng.normal(3.7, 0.3, count)
    (described,) = (event for event in events if isinstance(event, ClientsDescribed))
    text = "\n".join(json.dumps({**event.fields(), "event": event.event, "time": event.time}) for event in events)
    for one, name in zip(described.clients, names, strict=False):
        text = text.replace(f'"{one.client}"', f'"{name}"')
    made = [parse_event({"seq": 0, "hash": "", **json.loads(line)}) for line in text.splitlines()]
    for place, event in enumerate(made):
        if isinstance(event, ClientsDescribed):
            told = tuple(
                DescribedClient(
                    client=name, train_tokens=int(size), held_out_examples=2, histogram={"en": int(size), "fr": 400}
                )
                for name, size in zip(names, sizes, strict=True)
            )
            made[place] = event.model_copy(update={"clients": told})
        elif isinstance(event, Evaluated) and event.by_client:
            now = losses - 0.05 * event.round + rng.normal(0, 0.02, count)
            scores = {name: ClientScore(loss=float(loss)) for name, loss in zip(names, now, strict=True)}
            made[place] = event.model_copy(
                update={"loss": float(now.mean()), "change_margin": 0.01, "by_client": scores}
            )
    return made


def unfinished(events: Sequence[Event]) -> Iterator[Event]:
    """The events up to the middle of the fourth round, whose first update is refused."""
    arrived = 0
    for event in events:
        if isinstance(event, UpdateReceived) and event.round == 4:
            arrived += 1
            if arrived == 1:
                detail = "norm of the update is 41.2, expected at most 3.1"
                refused = UpdateRefused(round=4, client=event.client, reason="norm", detail=detail)
                yield refused.model_copy(update={"time": event.time})
                continue
            if arrived == 5:
                return
        yield event


def write(folder: Path, events: Sequence[Event]) -> Ledger:
    """A ledger with these events, the last of them now; it stays open, so that the run goes on."""
    folder.mkdir(parents=True)
    later = time.time() - events[-1].time
    times = iter(events)
    ledger = Ledger(folder / "ledger.jsonl", clock=lambda: next(times).time + later)
    for event in events:
        ledger.note(event)
    return ledger


def look(browser: Browser, address: str, path: str, *, size: str, dark: bool, ready: str = "true") -> None:
    """A picture of a page, once `ready` is true in it, in at most 256 colours."""
    browser.resize(*SIZES[size])
    browser.set_dark(dark=dark)
    browser.open(address)
    browser.wait(f"location.href === '{address}' && document.readyState === 'complete' && {ready}")
    time.sleep(1)  # for transitions
    browser.picture(ROOT / path)
    Image.open(ROOT / path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(ROOT / path, optimize=True)


def report(browser: Browser, run: Path, scratch: Path) -> None:
    """The report of a run and of a crowd, at three widths."""
    page = scratch / "crowd.html"
    view = RunView.of(crowd(read_events(run / "ledger.jsonl")))
    page.write_text(render_html(view, draw_svgs(view), palette_css()))
    for name, shown in (("report", run / "report.html"), ("report-crowd", page)):
        for size, dark in (("wide", False), ("middle", True), ("narrow", False)):
            look(browser, shown.as_uri(), f"docs/guides/images/{name}-{size}.png", size=size, dark=dark)


def live(browser: Browser, run: Path, scratch: Path) -> None:
    """The live page of a run in progress, of a finished one and of a crowd."""
    events = read_events(run / "ledger.jsonl")
    shown = {"running": unfinished(events), "finished": events, "crowd": unfinished(crowd(events))}
    for name, each in shown.items():
        ledger = write(scratch / "runs" / name, list(each))
        with serving("report", "--live") as start:
            _, address = start(scratch / "runs" / name)
            browser.open(address)  # the token becomes a cookie
            browser.wait("window.plaitPage")
            for size, dark in {"running": {"wide": False}, "finished": {"wide": True, "narrow": False}}.get(
                name, {"wide": True, "narrow": False}
            ).items():
                path = f"docs/guides/images/page-{name}-{size}.png"
                ready = "plaitPage.run?.linked && plaitPage.charts.bytes.plot"
                look(browser, address.split("?")[0], path, size=size, dark=dark, ready=ready)
        ledger.close()


def main(wanted: Sequence[str]) -> None:
    """Make them all, or those that are wanted."""
    if "loss" in wanted:
        for scheme in SCHEMES:
            draw(ROOT / f"docs/images/loss-by-bytes-{scheme}.svg", scheme)
    with tempfile.TemporaryDirectory() as scratch, Browser() as browser:
        if {"report", "page"} & {*wanted}:
            run = plait.simulate(base="tiny", rounds=5, seed=0, out=f"{scratch}/first").path.resolve()
            if "report" in wanted:
                report(browser, run, Path(scratch))
            if "page" in wanted:
                live(browser, run, Path(scratch))


if __name__ == "__main__":
    main(sys.argv[1:] or ("loss", "report", "page"))

"""Make the pictures of the report: a headless Chromium looks at it at three widths, in light and in dark.

    python docs/report_pictures.py [RUN]     # writes docs/guides/images/report-*.png

RUN is a finished run; without one, eight simulated clients train `tiny` for five rounds with seed 0. The pictures of a
crowd are of the same run with a thousand clients, whose losses and sizes are made up.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import plait
from plait.report.html import render_html
from plait.report.plots import draw_svgs
from plait.report.theme import palette_css
from plait.rounds.events import ClientScore, ClientsDescribed, DescribedClient, Evaluated
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/guides/images"
LOOKS = {"wide": (1280, 1000, "light"), "middle": (820, 1100, "dark"), "narrow": (390, 1500, "light")}


def crowd(run: Path, count: int = 1000) -> str:
    """The report of a run as if it had so many clients."""
    view = RunView.of(read_events(run / "ledger.jsonl"))
    rng = np.random.default_rng(0)
    names = [f"phone-{number:04}" for number in range(count)]
    sizes, losses = rng.lognormal(8, 1, count), rng.normal(3.7, 0.3, count)
    described = [
        DescribedClient(
            client=name, train_tokens=int(size), held_out_examples=2, histogram={"en": int(size), "fr": 400}
        )
        for name, size in zip(names, sizes, strict=True)
    ]
    view.clients.clear()
    view.take(ClientsDescribed(clients=tuple(described)))
    view.evaluations.clear()
    for number in range(len(view.rounds) + 1):
        now = losses - 0.05 * number + rng.normal(0, 0.02, count)
        scores = {name: ClientScore(loss=float(loss)) for name, loss in zip(names, now, strict=True)}
        view.take(Evaluated(round=number, loss=float(now.mean()), change_margin=0.01, by_client=scores))
    return render_html(view, draw_svgs(view), palette_css())


def look(page: Path, name: str) -> None:
    """Pictures of a page, one in each width."""
    sys.path.insert(0, str(ROOT))
    from tests.features.page.browser import Browser

    for size, (width, height, scheme) in LOOKS.items():
        with Browser(width=width, height=height, dark=scheme == "dark") as browser:
            browser.open(page.as_uri())
            browser.wait("document.readyState === 'complete'")
            browser.picture(IMAGES / f"{name}-{size}.png")


def main(given: list[str]) -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(given[0]) if given else plait.simulate(base="tiny", rounds=5, out=f"{scratch}/first").path
        look((run / "report.html").resolve(), "report")
        page = Path(scratch) / "crowd.html"
        page.write_text(crowd(run))
        look(page, "report-crowd")


if __name__ == "__main__":
    main(sys.argv[1:])

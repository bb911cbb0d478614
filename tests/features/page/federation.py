"""A real federation with a page: a standing server, clients over gRPC, a browser.

What the page shows is compared with what the ledger's lines say, read here without the code that the page is made from.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from plait.features.page.token import TOKEN_VARIABLE
from plait.features.standing.calls import AwayError
from plait.rounds.ledger import Line
from tests.features.page.browser import Browser
from tests.features.standing.federation import Asked, Standing
from tests.waiting import unused_port

SMALL = {
    "base": "tiny", "clients": 3, "rounds": 4, "local_steps": 8, "batch_size": 2, "seq_len": 32, "rank": 4,
    "learning_rate": 1e-2, "dtype": "float32", "seed": 5,
}  # fmt: skip

SHOWN = """(() => {
  const page = globalThis.plaitPage;
  if (!page?.isDrawn) return null;
  const text = (place) => document.querySelector(place).textContent;
  const texts = (one) => [...one.children].map((each) => each.textContent);
  const list = (place) => [...document.querySelectorAll(place)].map(texts);
  const named = (place) => Object.fromEntries(list(place).map(([name, ...rest]) => [name, rest]));
  const { loss, bytes, drift, agreement, effective_rank: rank } = page.charts;
  return {
    seq: page.run.document.seq, state: text("#state"), chain: text("#chain"), learning: text("#learning-text"),
    round: text("#timeline-text"), refusals: text("#refusals-text"), refused: list("#refusals tbody tr"),
    figures: named("#figures div"), record: named("#record div"), savings: list("#savings tbody tr")[0],
    clients: named("#table tbody tr"), loss: loss.data, bytes: bytes.data, drift: drift.data, rank: rank.data,
    agreement: agreement.data, loss_text: text("#loss-text"),
    each: Object.fromEntries((page.multiples.clients ?? []).map((one) => [one.name, one.last])),
  };
})()"""
"""What the panels show, if all of them show the same event."""


TOKEN = secrets.token_urlsafe(32)


@contextmanager
def federation(folder: Path, records: Mapping[str, int]) -> Generator[Standing]:
    """A federation whose server has begun, with a page, and whose clients have not; what still runs is killed."""
    os.environ[TOKEN_VARIABLE] = TOKEN
    made = Standing.make(folder, records, page=f"localhost:{unused_port()}")
    made.open()
    try:
        yield made
    finally:
        made.end()


def submit(there: Standing, name: str, **settings: object) -> None:
    """Submit a run, once the server answers."""

    def is_submitted() -> bool:
        with suppress(AwayError):
            there.submit(name, Asked({**SMALL, **settings}, (), ""))
            return True
        return False

    there.until(is_submitted)


def enter(browser: Browser, there: Standing, run: str) -> None:
    """Open the page, and look at a run."""
    browser.open(f"http://{there.page}/?run={run}&token={TOKEN}")
    browser.wait(f"plaitPage.run?.name === '{run}'")
    browser.js("document.querySelector('#all').open = true")


def check(shown: Mapping[str, Any], all_lines: Sequence[Line]) -> None:
    """Compare what the panels show of a ledger up to one event with its lines."""
    lines: list[Any] = list(all_lines[: shown["seq"] + 1])

    def of(*kinds: str) -> list[Any]:
        return [line for line in lines if line["event"] in kinds]

    assert shown["chain"] == f"The ledger's hash chain is intact: {len(lines):,} events checked."
    assert shown["record"]["newest event"] == [lines[-1]["hash"]]
    done = {line["round"] for line in of("round_finished")}
    assert f"{len(done)} of {lines[0]['config']['rounds']} rounds done" in shown["state"]
    up, down = (sum(line.get(key) or 0 for line in lines) for key in ("uplink_bytes", "downlink_bytes"))
    assert shown["savings"][1:3] == [size(up), size(down)]
    assert shown["figures"]["sent"] == [size(up + down), f"{size(up)} up, {size(down)} down"]
    # An interrupted round is begun again, and what its clients have sent stays.
    rounds = sorted({line["round"] for line in lines if line.get("uplink_bytes") or line.get("downlink_bytes")})
    by_round = [
        sum((line.get("uplink_bytes") or 0) for line in lines if line.get("round") == number) for number in rounds
    ]
    if rounds:
        assert [shown["bytes"][0], shown["bytes"][2]] == [rounds, by_round]
    evaluated = {line["round"]: line for line in of("evaluated")}
    if evaluated:
        numbers = sorted(evaluated)
        newest = evaluated[numbers[-1]]
        assert shown["loss"][:2] == [numbers, [evaluated[number]["loss"] for number in numbers]]
        assert shown["figures"]["held-out loss"][0] == f"{newest['loss']:.3f}"
        if newest["by_client"]:
            losses = {name: score["loss"] for name, score in newest["by_client"].items()}
            worst = max(losses, key=losses.__getitem__)
            assert shown["figures"]["worst client"] == [f"{losses[worst]:.3f}", worst]
            assert {name: shown["each"][name] for name in losses} == losses
    measured = {line["round"]: line["diagnostics"] for line in of("round_finished") if line.get("diagnostics")}
    if measured:
        numbers = sorted(measured)
        drifts = [[*measured[number]["drift"].values()] for number in numbers]
        assert shown["drift"][0] == numbers
        assert_close(shown["drift"][1], [sum(each) / len(each) for each in drifts])
        assert shown["agreement"] == [numbers, [measured[number]["agreement"] for number in numbers]]
        assert shown["rank"] == [numbers, [measured[number]["effective_rank"] for number in numbers]]
        assert f"effective rank {measured[numbers[-1]]['effective_rank']:.1f}" in shown["learning"]
    refused = of("client_turned_away", "update_refused")
    assert shown["refusals"].startswith(f"{len(refused)} in all." if refused else "Nothing was refused.")
    assert [row[2] for row in shown["refused"]] == [line["reason"] for line in reversed(refused)]
    if taken := of("step_taken_back"):
        assert f"round {taken[-1]['round']}" in shown["loss_text"]
    started = of("round_started")
    if started:
        number, cohort = started[-1]["round"], started[-1]["cohort"]
        assert shown["round"].startswith(f"Round {number}: ")
        newest_of = {line["client"]: line["round"] for line in of("update_received")}
        for name in cohort:
            if name in newest_of:
                assert shown["clients"][name][6] == str(number - newest_of[name]), "rounds since the newest update"
    spent = of("privacy_spent")
    if spent:
        assert shown["figures"]["privacy"][0].startswith("ε ")
        assert abs(float(shown["figures"]["privacy"][0][2:]) / spent[-1]["epsilon"] - 1) < 0.01
    elif not of("privacy_started"):
        assert shown["figures"]["privacy"][0] == "no guarantee"


def assert_close(shown: Sequence[float], expected: Sequence[float]) -> None:
    """The same numbers, but for the order in which they were added up."""
    assert len(shown) == len(expected)
    assert all(abs(one - other) <= 1e-9 * abs(other) for one, other in zip(shown, expected, strict=True))


def size(count: float) -> str:
    """Bytes as the page says them."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            value = count / unit
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {name}"
    return f"{count} B"


def watch(browser: Browser, there: Standing, run: str, until: Callable[[], bool], *, patience_s: float = 1200) -> int:
    """Compare the page with the ledger, over and over, until it shows the last event after `until`.

    Returns at how many events they were compared, at least one.
    """
    seen: set[int] = set()
    end = time.monotonic() + patience_s
    while True:
        over = until()
        shown: Any = browser.js(SHOWN)
        if shown and shown["seq"] >= 0 and shown["seq"] not in seen:
            check(shown, there.lines(run))
            seen.add(shown["seq"])
        if over and shown and shown["seq"] == len(there.lines(run)) - 1:
            return len(seen)
        assert time.monotonic() < end, there.everything_printed()
        with suppress(AssertionError):
            browser.wait(f"plaitPage.isDrawn && plaitPage.run.document.seq !== {max(seen, default=-1)}", timeout_s=0.5)

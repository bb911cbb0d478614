"""Ledgers whose figures a test can follow by hand."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from plait.ledger.events import parse_event
from tests.plait.conftest import CONFIG, broadcast, finished, received, recorded, round_finished, run_started

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run of one round and one client; its base has a loss of 4 unless told otherwise."""

    def make(
        name: str,
        loss: float | None,
        *,
        seed: int = 0,
        sent: int = 1000,
        change_margin: float | None = 0.03,
        started: Mapping[str, object] | None = None,
        tokens: int = 100,
        base_loss: float = 4.0,
        is_over: bool = True,
        **settings: object,
    ) -> Path:
        config = {**CONFIG, "rounds": 1, "seed": seed, "out": f"runs/{name}", **settings}
        before = {"loss": base_loss, "tokens": tokens, "sequences": 16}
        events = [
            run_started(name=name, seed=seed, config=config, **(started or {})),
            {"event": "evaluated", "round": 0, **before, "by_client": {"ann": before}},
            broadcast(1, "ann", sent // 2),
            received(1, "ann", sent - sent // 2),
        ]
        if loss is not None:
            score = {"loss": loss, "loss_margin": 0.5, "change": loss - base_loss, "change_margin": change_margin}
            by_client = {"ann": score | {"tokens": tokens, "sequences": 16}}
            events += [round_finished(1, 1), {"event": "evaluated", "round": 1, **score, "by_client": by_client}]
        events += [finished(1)] if is_over else []
        path = tmp_path / name
        path.mkdir()
        recorded(path / "ledger.jsonl", map(parse_event, events), clock=iter(range(1000, 2000)).__next__)
        return path

    return make

import pytest

from plait.ledger import events
from plait.ledger.ledger import Ledger
from plait.ledger.run_now import LiveProgress
from tests.plait.rounds.conftest import started


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    yield ledger
    ledger.close()


def test_who_cannot_take_part_is_told_in_the_clients_own_words_until_it_can(tmp_path, ledger):
    progress = LiveProgress(tmp_path / "ledger.jsonl")

    def unfit():
        with progress() as now:
            return {name: (event.reason, event.detail) for name, event in now.unfit.items()}

    ledger.append(started())
    ledger.append(events.ClientTurnedAway(node=7, client="ann", reason="unusable-data", detail="no labels"))
    ledger.append(events.ClientTurnedAway(node=8, client="bob", reason="silent", detail="no word"))
    ledger.append(events.ClientTurnedAway(node=9, detail="no name yet"))
    assert unfit() == {
        "ann": ("unusable-data", "no labels"),
        "bob": ("silent", "no word"),
        "node 9": ("", "no name yet"),
    }
    ledger.append(events.ClientsDescribed(clients=(events.DescribedClient(client="ann"),)))
    assert set(unfit()) == {"bob", "node 9"}
    ledger.append(events.Resumed(round=0))
    assert not unfit()


def test_the_planned_rounds_are_known_before_the_first_event(tmp_path, ledger):
    progress = LiveProgress(tmp_path / "ledger.jsonl", rounds=7)
    with progress() as now:
        assert (now.planned_rounds, now.eta_s) == (7, None)
    ledger.append(planned(rounds=5))
    with progress() as now:
        assert now.planned_rounds == 5


@pytest.fixture
def timed(tmp_path):
    """Appends an event at a time, and returns the estimate after it."""
    now = [0.0]
    ledger = Ledger(tmp_path / "ledger.jsonl", clock=lambda: now[0])
    progress = LiveProgress(tmp_path / "ledger.jsonl")

    def tell(seconds: float, event: events.Event) -> float | None:
        now[0] = seconds
        ledger.append(event)
        with progress() as run:
            return run.eta_s

    yield tell
    ledger.close()


def planned(**config: object) -> events.RunStarted:
    return started().model_copy(update={"config": config})


def test_the_time_to_go_has_the_evaluations_that_are_still_to_come(timed):
    assert timed(0, planned(**{"rounds": 5, "eval-every": 2})) is None
    assert timed(10, events.ClientsDescribed(clients=())) is None
    assert timed(14, events.Evaluated(round=0, loss=4.0)) is None
    timed(14, events.RoundStarted(round=1))
    # After rounds 2, 4 and 5, each as long as that of the base.
    assert timed(24, events.RoundFinished(round=1, wall_s=10.0)) == 4 * 10 + 3 * 4
    assert timed(25, events.RoundStarted(round=2)) == 4 * 10 + 3 * 4
    assert timed(34, events.RoundFinished(round=2, wall_s=10.0)) == 3 * 10 + 3 * 4, "the one that begins too"
    assert timed(40, events.Evaluated(round=2, loss=3.0)) == 3 * 10 + 2 * (4 + 6) / 2
    timed(41, events.RoundStarted(round=3))
    assert timed(51, events.RoundFinished(round=3, wall_s=10.0)) == 2 * 10 + 2 * 5
    timed(52, events.RoundStarted(round=4))
    timed(62, events.RoundFinished(round=4, wall_s=10.0))
    # How long a pause was says nothing.
    timed(63, events.Interrupted(round=4))
    timed(1000, events.Resumed(round=4))
    assert timed(1100, events.Evaluated(round=4, loss=2.0)) == 10 + 5
    timed(1101, events.RoundStarted(round=5))
    assert timed(1111, events.RoundFinished(round=5, wall_s=10.0)) == 5
    assert timed(1117, events.Evaluated(round=5, loss=2.0)) == 0

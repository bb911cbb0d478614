import io

from rich.console import Console
from rich.progress import Progress

from plait.rounds.events import ClientTurnedAway, Evaluated, Event, ReplyReceived, RoundStarted, WaitingForClients
from plait.viewer import Viewer


def shown(*events):
    screen = Console(file=io.StringIO(), width=200)
    viewer = Viewer(Progress(console=screen, disable=True), rounds=2)
    for event in events:
        viewer.show(event if isinstance(event, Event) else Evaluated(**event))
    viewer.refresh()
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_clients_that_are_turned_away_for_one_reason_are_told_once():
    away = [
        ClientTurnedAway(node=at, client=f"c{at}", reason="too-little-data", detail=f"client 'c{at}' has too little")
        for at in range(3)
    ]
    other = ClientTurnedAway(node=9, client="c9", reason="base", detail="another base")
    assert shown(*away, other) == [
        "cannot take part c0 and 2 more: client 'c0' has too little",
        "cannot take part c9: another base",
    ]


def test_a_run_that_lacks_clients_says_that_it_waits_for_them():
    bars = Progress(disable=True)
    viewer = Viewer(bars, rounds=2, cohort=3)
    viewer.show(WaitingForClients(here=3, fit=2, unfit=1, wanted=3))
    viewer.refresh()
    assert bars.tasks[0].description == "waiting for clients"


def test_what_is_done_next_shows_before_its_first_answer():
    bars = Progress(disable=True)
    viewer = Viewer(bars, rounds=2, cohort=2, evaluators=2)
    for event, doing in (
        (ReplyReceived(client="a", purpose="describe"), "reading data, 1 of 2 clients"),
        (ReplyReceived(client="b", purpose="describe"), "evaluating the base, 0 of 2 clients"),
        (RoundStarted(round=1), "round 1 of 2: training, 0 of 2 clients"),
    ):
        viewer.show(event)
        viewer.refresh()
        assert bars.tasks[0].description == doing


def test_losses_and_changes_stand_beside_how_sure_they_are():
    lines = shown(
        {"round": 0, "loss": 2.817, "loss_margin": 0.06},
        {"round": 1, "loss": 2.476, "loss_margin": 0.061, "change": -0.341, "change_margin": 0.012},
    )
    assert lines == [
        "base      held-out loss 2.8170 ± 0.0600",
        "round 1   held-out loss 2.4760 ± 0.0610 (-0.3410 ± 0.0120 against the base)",
    ]

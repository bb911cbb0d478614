from rich.progress import Progress

from plait.ledger.events import ReplyReceived, RoundStarted
from plait.report.progress import Viewer


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

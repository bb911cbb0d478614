import threading

import pytest

from client.task import Abandonment
from plait.errors import Abandoned, check_abandoned


def test_abandoned_work_stops_at_its_next_step_and_says_the_first_reason():
    abandonment = Abandonment()
    for reason in ("deadline", "enough"):
        thread = threading.Thread(target=abandonment.ask, args=(reason,))
        thread.start()
        thread.join()
    with abandonment.obeyed(), pytest.raises(Abandoned, match="deadline"):
        check_abandoned()


def test_the_next_work_is_not_stopped_and_neither_is_work_in_another_thread():
    abandonment, stopped = Abandonment(), []
    abandonment.ask("enough")
    with abandonment.obeyed():
        other = threading.Thread(target=lambda: stopped.append(check_abandoned()))
        other.start()
        other.join()
    check_abandoned()
    assert stopped == [None]

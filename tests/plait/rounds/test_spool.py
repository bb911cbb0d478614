import pytest

import plait.rounds.spool as module
from plait.rounds.spool import side_by_side


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "cores", lambda: request.param)
    return request.param


def test_results_come_in_the_order_of_the_work_and_few_are_held(threads):
    begun: list[int] = []
    done: list[int] = []
    for number in side_by_side((lambda n=n: begun.append(n) or n for n in range(20)), each_bytes=1):
        assert len(begun) - len(done) <= threads + 1
        done.append(number)
    assert done == list(range(20))
    assert sorted(begun) == done

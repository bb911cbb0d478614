"""Who is late and silent is given up sooner than who is only silent, and who is late and works is not."""

from dataclasses import dataclass, field

import pytest

from plait.rounds.channel import Liveness, Patience, Purpose
from plait.rounds.dispatch import RequestBatch


@dataclass
class Nobody:
    """A channel whose nodes never answer, and its clock; those in `silent_since` show no progress from then on."""

    open_ended: bool
    silent_since: dict[int, float] = field(default_factory=dict)
    now_s: float = 100.0

    @property
    def clock(self):
        return self

    def now(self):
        return self.now_s

    def liveness(self, node):
        return Liveness(idle_s=max(0.0, self.now_s - self.silent_since.get(node, self.now_s)))

    def exchange(self, purpose, group):
        return self

    def send(self, node, task, group):
        pass

    def withdraw(self, node, reason):
        pass

    def receive(self, timeout_s):
        self.now_s += timeout_s


@pytest.mark.parametrize("open_ended", [False, True])
@pytest.mark.parametrize(("silent_since", "given_up_at"), [(110.0, 300.0), (280.0, 340.0), (500.0, 560.0)])
def test_a_client_is_given_up_once_it_is_late_and_has_been_silent_for_a_minute(open_ended, silent_since, given_up_at):
    channel = Nobody(open_ended, {7: silent_since})
    asking = RequestBatch(channel, purpose=Purpose.TRAIN, group="1", patience=Patience())
    for client, node in (("works", 3), ("silent", 7)):
        asking.anew(client, expected_s=200.0)
        asking.send(client, node, (b"", b""))
    heard = asking.next(2000.0)
    assert (heard.client, heard.given_up) == ("silent", "silent")
    assert channel.now_s == pytest.approx(given_up_at, abs=1.5 if open_ended else 0.01)
    assert asking.waiting == {"works"}
    assert asking.next(3000.0) is None


@pytest.mark.parametrize(
    ("silent_since", "now_s", "expected", "waited_s"),
    [
        (-1000.0, 100.0, {"expected_s": 10.0}, 60.0),  # it had nothing to do before it was asked
        (100.0, 100.0, {}, None),  # its pace is unknown
        (100.0, 180.0, {"expected_s": 200.0, "asked_at": 50.0}, 200.0),  # it was asked before
    ],
)
def test_a_client_is_due_by_what_is_expected_of_it_since_it_was_asked(silent_since, now_s, expected, waited_s):
    channel = Nobody(False, {7: silent_since}, now_s=now_s)
    asking = RequestBatch(channel, purpose=Purpose.TRAIN, group="1", patience=Patience())
    asking.anew("silent", **expected)
    asking.send("silent", 7, (b"", b""))
    heard = asking.next(2000.0)
    assert (heard and heard.waited_s) == (waited_s and pytest.approx(waited_s))
    if heard is None:
        assert channel.now_s == pytest.approx(2000.0)


HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("asked_s", "took_s", "asked", "expected"),
    [
        (100 * HOUR_S, [1.0], 3, False),
        (899.0, [1.0, 2.0], 4, False),
        (901.0, [1.0, 2.0], 4, True),
        (11 * HOUR_S, [HOUR_S], 2, True),
        (11 * HOUR_S, [HOUR_S, 100 * HOUR_S], 4, True),
    ],
)
def test_a_client_is_too_slow_only_far_behind_half_of_the_others(asked_s, took_s, asked, expected):
    assert Patience().is_slow(asked_s=asked_s, took_s=took_s, asked=asked) is expected


@pytest.mark.parametrize(
    ("liveness", "reason", "detail"),
    [
        (Liveness(idle_s=10**9), "silent", "is connected, but has shown no progress for 300 s"),
        (Liveness(idle_s=5.0), "slow", "far longer than the others took"),
    ],
)
def test_a_client_that_trains_for_ever_is_given_up_and_not_asked_again_at_once(stalling, liveness, reason, detail):
    federation = stalling(Purpose.TRAIN, liveness, rounds=3)
    federation.run()
    refused = federation.of_kind("update_refused")
    assert {(event["client"], event["reason"]) for event in refused} == {("mallory", reason)}
    assert all(detail in event["detail"] for event in refused)
    assert len(refused) < 3
    assert [event["received"] for event in federation.of_kind("round_finished")] == [2, 2, 2]
    assert {(event["client"], event["reason"]) for event in federation.of_kind("client_turned_away")} == {
        ("mallory", reason)
    }

import grpc
import pytest

from client.session import (
    FINAL,
    UNWANTED,
    Backoff,
    CurrentSession,
    FinalError,
    Retrying,
    SessionOverError,
    UnwantedError,
)
from client.task import ClientTask, TaskHandle
from plait.errors import Abandoned


class Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class Calls:
    """Attempts that end as they are told to, one after the other; the last one succeeds."""

    def __init__(self, *outcomes: Exception) -> None:
        self.outcomes = list(outcomes)
        self.handle = TaskHandle(ClientTask("1.train.0", "train", "1", b"", 0, b""))
        self.told: list[str] = []
        self.unwanted: list[tuple[int, str]] = []
        self.waits: list[float] = []

    def run(self, *, ends: bool = True) -> object:
        sessions = CurrentSession()
        sessions.replace("session")
        backoff = Backoff(first_s=0.001, most_s=0.004, draw=lambda _, high: self.waits.append(high) or 0.0)
        retrying = Retrying(sessions, lambda: backoff, self.told.append)
        return retrying.until_done(
            self.attempt,
            self.handle,
            what="upload",
            unwanted=lambda offers, why: bool(self.unwanted.append((offers, why))) or ends,
        )

    def attempt(self, session: object, backoff: Backoff) -> object:
        if not self.outcomes:
            return session
        raise self.outcomes.pop(0)


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_status_is_tried_again_or_final_or_the_servers_wish(code):
    calls = Calls(Failed(code, "why"))
    if code in FINAL:
        with pytest.raises(FinalError, match="round 1: training: upload: "):
            calls.run()
    elif code in UNWANTED:
        with pytest.raises(UnwantedError):
            calls.run()
        assert calls.unwanted == [(1, "why")]
    else:
        assert calls.run() == "session"
        assert len(calls.told) == 1
        assert calls.told[0].startswith("round 1: training: upload: ")


def test_a_task_that_was_offered_meanwhile_is_tried_again_though_the_server_did_not_want_it():
    calls = Calls(UnwantedError(), Failed(grpc.StatusCode.NOT_FOUND, "no open task"))
    assert calls.run(ends=False) == "session"
    assert len(calls.unwanted) == len(calls.told) == 2


def test_a_session_that_is_over_is_no_trouble_and_costs_no_wait():
    calls = Calls(SessionOverError(), SessionOverError())
    assert calls.run() == "session"
    assert (calls.told, calls.waits) == ([], [])


def test_what_was_given_up_is_not_tried_again():
    calls = Calls(grpc.FutureCancelledError())
    genuine = calls.attempt

    def attempt(session: object, backoff: Backoff) -> object:
        calls.handle.give_up("deadline")
        return genuine(session, backoff)

    calls.attempt = attempt
    with pytest.raises(Abandoned, match="deadline"):
        calls.run()
    assert calls.told == []


def test_a_task_that_was_offered_since_is_not_given_up():
    handle = Calls().handle
    assert handle.offered_again()
    assert not handle.give_up("settled", unless_offered_since=1)
    handle.abandonment.check()
    assert handle.give_up("settled", unless_offered_since=2)
    assert not handle.offered_again(), "it has to be begun anew"

"""Retry a call until it succeeds: over lost connections and restarts of the server, with growing waits.

One table defines the meaning of each gRPC status. Full jitter (a wait drawn between nothing and the bound) spreads out
nodes that lost the server at the same moment. A restarted server is back within seconds, so waits stay short for the
first minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar, cast

import grpc

from client.session import CurrentSession, Session, SessionOverError
from client.task_handle import TaskHandle
from client.wording import shown
from plait.errors import PeerError

FIRST_S = 0.5
SOON_S, SOON_FOR_S = 5.0, 120.0
MOST_S = 60.0

Result = TypeVar("Result")


class Meaning(Enum):
    """What to do about a failed call."""

    AGAIN = auto()
    """Retry later."""
    FINAL = auto()
    """A retry cannot help."""
    UNWANTED = auto()
    """The server does not wait for this task, or not yet."""


MEANINGS = {
    grpc.StatusCode.INVALID_ARGUMENT: Meaning.FINAL,
    grpc.StatusCode.OUT_OF_RANGE: Meaning.FINAL,
    grpc.StatusCode.PERMISSION_DENIED: Meaning.FINAL,
    grpc.StatusCode.UNIMPLEMENTED: Meaning.FINAL,
    grpc.StatusCode.FAILED_PRECONDITION: Meaning.UNWANTED,
    grpc.StatusCode.NOT_FOUND: Meaning.UNWANTED,
}
"""All others mean `Meaning.AGAIN`."""

# Codes whose text is the server's own; for the others it describes gRPC's internals.
_TOLD_BY_THE_SERVER = frozenset(
    {*MEANINGS, grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED}
) - {grpc.StatusCode.UNIMPLEMENTED}
_IN_PLAIN_WORDS = {
    grpc.StatusCode.CANCELLED: "the call to the server was interrupted",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the server did not answer in time",
    grpc.StatusCode.UNAVAILABLE: "the connection to the server is lost",
    grpc.StatusCode.UNIMPLEMENTED: "the server does not know this call; install the plait version that it runs",
}


class TryAgainError(Exception):
    """An attempt failed although gRPC saw no failure; the message says how."""


class UnwantedError(Exception):
    """The server does not wait for this task, or has not asked for it yet."""


class FinalError(PeerError):
    """The server refuses, and would refuse the same again."""


def what_failed(error: grpc.RpcError) -> str:
    """Why a call failed, in plain words on one line."""
    call = cast("grpc.Call", error)
    details, code = shown(call.details() or ""), call.code()
    if details and (code in _TOLD_BY_THE_SERVER or details.startswith("server cannot")):
        return details
    return _IN_PLAIN_WORDS.get(code, "the server failed at this call; its log may say why")


class Backoff:
    """Waits that grow until a success.

    Args:
        first_s: bound of the first wait, in seconds; it doubles each time.
        most_s: bound of all waits; 5 seconds for the first two minutes of waiting.
        draw: a number between its two arguments, uniformly.
    """

    def __init__(
        self,
        *,
        first_s: float = FIRST_S,
        most_s: float = MOST_S,
        draw: Callable[[float, float], float] | None = None,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw or random.SystemRandom().uniform
        self._bound_s = first_s
        self._waited_s = 0.0

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait_s = self._draw(0.0, self._bound_s)
        self._waited_s += wait_s
        most_s = min(SOON_S, self._most_s) if self._waited_s < SOON_FOR_S else self._most_s
        self._bound_s = min(2 * self._bound_s, most_s)
        return wait_s

    def reset(self) -> None:
        """A success: the next wait is short again."""
        self._bound_s, self._waited_s = self._first_s, 0.0


@dataclass(frozen=True)
class Retrying:
    """How calls are retried.

    Attributes:
        backoff: makes the waits of one call.
    """

    sessions: CurrentSession
    backoff: Callable[[], Backoff]
    trouble: Callable[[str], None]

    def until_done(
        self,
        attempt: Callable[[Session, Backoff], Result],
        handle: TaskHandle,
        *,
        what: str,
        unwanted: Callable[[int, str], bool],
    ) -> Result:
        """Call `attempt` with the current session until it succeeds.

        Args:
            attempt: makes the calls; it resets the backoff whenever it makes progress.
            unwanted: called with the number of offers before the attempt, and the reason, when the server does not wait
                for the task; returns whether that is final, because it was not offered since.

        Returns:
            The result of `attempt`.

        Raises:
            Abandoned: the task was given up.
            FinalError: a retry cannot help.
            UnwantedError: the server does not wait for the task.
        """
        abandonment, backoff = handle.abandonment, self.backoff()
        while True:
            session, offers = self.sessions.wait(abandonment), handle.offers
            try:
                return attempt(session, backoff)
            except SessionOverError:
                continue
            except (grpc.FutureCancelledError, CancelledError):
                meaning, why = Meaning.AGAIN, "broken off"
            except grpc.RpcError as error:
                meaning, why = MEANINGS.get(cast("grpc.Call", error).code(), Meaning.AGAIN), what_failed(error)
            except TryAgainError as error:
                meaning, why = Meaning.AGAIN, str(error)
            except UnwantedError:
                meaning, why = Meaning.UNWANTED, "the server has not asked for it yet"
            abandonment.check()
            cause = f"{handle.task.doing}: {what}: {why}"
            if meaning is Meaning.FINAL:
                raise FinalError(cause)
            if meaning is Meaning.UNWANTED and unwanted(offers, why):
                abandonment.check()
                raise UnwantedError(cause)
            self.trouble(cause)
            abandonment.pause(backoff.next_s())

"""Tasks of one purpose that clients were sent, and their answers as they come; every wait ends.

If clients come and go, one that is silent, or far slower than the others, is given up and its task withdrawn. One that
was expected to have answered by now may be silent for less long, a simulated one too. Knows nothing of what is asked.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Self

from plait.abandon import check_abandoned
from plait.rounds.channel import Channel, Data, NoAnswer, Purpose, TaskParts
from plait.rounds.patience import Patience
from plait.rounds.reason import Reason

_LOOK_S = 1.0  # interval of checks for clients that will not answer
# Moments of whole milliseconds, so that they do not depend on when a client was looked at before.
_DIGITS = 3


@dataclass(frozen=True)
class Heard:
    """What came from a client, or why nothing will.

    Attributes:
        given_up: why the client was given up, if it was.
        waited_s: how long it was waited for then.
    """

    client: str
    data: Data | NoAnswer
    given_up: Reason | None = None
    waited_s: float = 0.0


@dataclass(eq=False)
class Asking:
    """An exchange with clients by name. Leaving it withdraws what is unanswered.

    Attributes:
        group: of tasks that are not given another; as `plait.rounds.channel.group_of` makes it.
        patience: how long to wait for clients that come and go.
    """

    channel: Channel
    _: KW_ONLY
    purpose: Purpose
    group: str
    patience: Patience

    def __post_init__(self) -> None:
        self._exchange = self.channel.exchange(self.purpose, self.group)
        self._waiting: dict[int, str] = {}
        self._asked_at: dict[str, float] = {}
        self._due_at: dict[str, float] = {}
        self._took_s: list[float] = []

    def __enter__(self) -> Self:
        self._exchange.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._exchange.__exit__(*error)

    @property
    def waiting(self) -> frozenset[str]:
        """The clients that have not answered."""
        return frozenset(self._waiting.values())

    def send(self, client: str, node: int, task: TaskParts, *, group: str = "") -> None:
        """Send a client its task; a further one belongs to the same question."""
        self._asked_at.setdefault(client, self.channel.clock.now())
        self._waiting[node] = client
        self._exchange.send(node, task, group)

    def withdraw(self, client: str, reason: str) -> None:
        """Stop waiting for a client's answer."""
        node = next(node for node, name in self._waiting.items() if name == client)
        del self._waiting[node]
        self._due_at.pop(client, None)
        self._exchange.withdraw(node, reason)

    def anew(self, client: str, *, expected_s: float | None = None, asked_at: float | None = None) -> None:
        """A client's next task is another question.

        Args:
            expected_s: how long it is expected to take; None if that is not known.
            asked_at: when it was asked, on the channel's clock, if that was before.
        """
        self._asked_at[client] = self.channel.clock.now() if asked_at is None else asked_at
        self._due_at.pop(client, None)
        if expected_s is not None:
            self._due_at[client] = round(self._asked_at[client] + expected_s, _DIGITS)

    def settled(self, client: str) -> float:
        """A client's answer is its last one: the seconds that it took."""
        took_s = self.channel.clock.now() - self._asked_at[client]
        self._took_s.append(took_s)
        return took_s

    def next(self, deadline: float | None) -> Heard | None:
        """What comes next.

        Args:
            deadline: on the channel's clock; None for none.

        Returns:
            None once all have answered or the deadline has passed.
        """
        open_ended = self.channel.open_ended
        while self._waiting:
            check_abandoned()
            left_s = None if deadline is None else max(0.0, deadline - self.channel.clock.now())
            look_s = _LOOK_S if open_ended else self._next_due_s()
            slice_s = left_s if look_s is None else look_s if left_s is None else min(left_s, look_s)
            received = self._exchange.receive(slice_s)
            if received is None:
                if slice_s == left_s:
                    return None
                if given_up := self.give_up():
                    return given_up
                continue
            node, data = received
            client = self._waiting.pop(node, None)
            if client is not None:  # else it was not asked, or has answered
                self._due_at.pop(client, None)
                return Heard(client, data)
        return None

    def give_up(self) -> Heard | None:
        """Give up a client that is silent, or far slower than the others: its task is withdrawn.

        `next` does so by itself, unless its deadline is nearer than it looks.
        """
        now = self.channel.clock.now()
        for node, client in self._waiting.items():
            asked_s = now - self._asked_at[client]
            idle_s = min(asked_s, self.channel.liveness(node).idle_s)
            if self._is_overdue(client, idle_s):
                reason, why = Reason.SILENT, f"has shown no progress for {idle_s:.0f} s, and its answer is overdue"
            elif not self.channel.open_ended:
                continue
            elif self.patience.is_silent(asked_s=asked_s, idle_s=idle_s):
                reason, why = Reason.SILENT, f"has shown no progress for {self.patience.silent_s:.0f} s"
            elif self.patience.is_slow(asked_s=asked_s, took_s=self._took_s, asked=len(self._asked_at)):
                reason, why = Reason.SLOW, f"has not answered in {asked_s:.0f} s, far longer than the others took"
            else:
                continue
            self.withdraw(client, reason.value)
            return Heard(client, NoAnswer(f"is connected, but {why}"), reason, asked_s)
        return None

    def _next_due_s(self) -> float | None:
        """Seconds until a client may be overdue; for those that look by themselves only then."""
        now = self.channel.clock.now()
        return max(0.0, min(self._due_at.values()) - now) if self._due_at else None

    def _is_overdue(self, client: str, idle_s: float) -> bool:
        """Whether a client is late and silent; one that is late and works is looked at again."""
        now, due_at = self.channel.clock.now(), self._due_at.get(client)
        if due_at is None or now < due_at:
            return False
        left_s = self.patience.may_be_silent_s(idle_s=idle_s)
        if left_s < 10**-_DIGITS:
            return True
        self._due_at[client] = round(now + left_s, _DIGITS)
        return False

"""Where a run stands, folded from its ledger event by event: what is done now, by whom, and sums of what was.

Its size grows with clients and with rounds, not with their product, so that following a long run takes little memory.
`plait.ledger.run_view.RunView` is the same and everything else.
"""

import bisect
import statistics
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from pydantic import JsonValue

from plait.errors import PeerError
from plait.ledger import events
from plait.ledger.events import Reason
from plait.ledger.ledger import Follower

if TYPE_CHECKING:
    from plait.ledger.privacy import PrivacyCard
    from plait.ledger.redaction import MaskedCard


StatusSection: TypeAlias = "PrivacyCard | MaskedCard"
"""What differential privacy, or masks, promise and have done in a run, in figures and words."""


_LATE_FACTOR = 2.0
_LATE_AT_LEAST_S = 5.0
_TIMED = 64
"""Number of recent rounds and evaluations for estimating the remaining time, of recent updates for their staleness."""

_EVALUATING, _FINISHED, _BETWEEN = "evaluating", "finished", "between rounds"

_LOST: Mapping[str, str] = {
    Reason.NO_ANSWER: "away",
    Reason.LATE: "late",
    Reason.SILENT: "late",
    Reason.SLOW: "late",
    Reason.STALE: "late",
}
"""States of a client whose update will not count, by reason; any other reason is a refusal."""


def late_after_s(took_s: Sequence[float]) -> float | None:
    """Seconds after which a client counts as late where a run is shown: twice the median time of the others.

    Returns:
        At least 5 s; None without answers.
    """
    return max(_LATE_FACTOR * statistics.median(took_s), _LATE_AT_LEAST_S) if took_s else None


@dataclass(frozen=True)
class Traffic:
    """Bytes actually sent: `uplink_bytes` client to server, `downlink_bytes` server to client."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Both directions."""
        return self.uplink_bytes + self.downlink_bytes

    def __add__(self, other: Self) -> Self:
        return type(self)(self.uplink_bytes + other.uplink_bytes, self.downlink_bytes + other.downlink_bytes)


@dataclass
class ClientNow:
    """Where one client stands."""

    # ``ready``, ``chosen``, ``training``, ``evaluating``, ``done``, ``late``, ``away`` or ``refused``; empty where
    # nothing is known
    state: str = ""
    since: float = 0.0  # when that began, in seconds since 1970
    detail: str | None = None
    given: float | None = None  # when its task of this round was sent; None before
    is_training: bool = False  # whether it has a task to train; an evaluation may come beside it
    train_loss: float | None = None  # of its newest update that counts
    updated_round: int | None = None  # of that; None before
    updates: int = 0  # rounds of which one counts
    sent: Traffic = field(default_factory=Traffic)


WAITING = "waiting for clients"
"""The state of a run that waits for its clients."""


@dataclass
class RunNow:
    """Where a run stands."""

    state: str = "starting"
    wanted: int = 0
    round: int = 0
    round_began: float | None = None  # when, in seconds since 1970; None before the first
    in_round: bool = False
    cohort: dict[str, None] = field(default_factory=dict[str, None])
    # of those that dropped out of it the ledger's reason; of a masked sum with the stage
    lost: dict[str, str] = field(default_factory=dict[str, str])
    took_s: list[float] = field(default_factory=list[float])  # the times of the round's answers, in order of size
    # every client that described itself, by name
    clients: dict[str, events.DescribedClient] = field(default_factory=dict[str, events.DescribedClient])
    # clients that could not take part and have not described themselves since, by name
    left_out: dict[str, events.ClientTurnedAway] = field(default_factory=dict[str, events.ClientTurnedAway])
    # of every client that an event names, by name
    standing: dict[str, ClientNow] = field(default_factory=dict[str, ClientNow])
    # the names of those that the newest event has changed, in order
    changed: dict[str, None] = field(default_factory=dict[str, None])
    accepted: int = 0  # updates of different clients and rounds
    # of differential privacy and of masks
    cards: Mapping[str, StatusSection] = field(default_factory=dict[str, StatusSection])
    sent: Traffic = field(default_factory=Traffic)  # by everyone, repeated rounds included
    # round 0 is everything before training
    sent_by_round: dict[int, Traffic] = field(default_factory=dict[int, Traffic])
    interruptions: int = 0
    base_evaluation: events.Evaluated | None = None
    newest_evaluation: events.Evaluated | None = None
    judged: events.Judged | None = None  # the final figure; None before
    newest_round: events.RoundFinished | None = None
    ended_early: events.EndedEarly | None = None  # why the run ended before its last round; None if it did not
    end: events.RunFinished | None = None  # None while the run has not finished
    first: events.Event | None = None
    last: events.Event = field(default_factory=events.Event)
    worked_s: float = 0.0  # seconds without pauses between interruption and resumption
    rounds_before_start: int = 0  # planned, for as long as the ledger has no event
    _resumed: int = -1
    _round_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=_TIMED))
    _evaluation_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=_TIMED))
    _evaluating_since: float | None = None
    _evaluates_beside: bool = False
    _staleness: deque[int] = field(default_factory=lambda: deque[int](maxlen=_TIMED))

    def take(self, event: events.Event) -> None:
        """Process the next event."""
        if self.first is None:
            self.first = event
        elif not isinstance(event, events.Resumed):
            self.worked_s += max(0.0, event.time - self.last.time)
        self.last, self.changed = event, {}
        cards = {name: card.after(event) for name, card in self.cards.items()}
        self.cards = cards | {name: card for name, card in event.sections.items() if name not in cards}
        match event:
            case events.RunStarted():
                self.state = WAITING
            case events.Resumed():
                self.state, self._resumed, self._evaluating_since = WAITING, event.seq, None
            case events.Interrupted():
                self.state, self._evaluating_since = "interrupted", None
                self.interruptions += 1
            case events.RoundStarted():
                self._round_started(event)
            case events.RoundMissed():
                self.state = "below the quorum, retrying"
            case events.RoundFinished():
                self._round_finished(event)
            case events.Evaluated():
                self._evaluated(event)
            case events.Judged():
                self.judged = event
            case events.EndedEarly():
                self.ended_early = event
            case events.RunFinished():
                self._finished(event)
            case _:
                self._of_clients(event)

    def _of_clients(self, event: events.Event) -> None:
        match event:
            case events.WaitingForClients():
                self.state, self.wanted = WAITING, event.wanted
            case events.ClientsGathered():
                self.state = _BETWEEN if self.round else "evaluating the base"
                self._evaluating_since = None if self.round else event.time
            case events.ClientsDescribed(clients=described):
                for client in described:
                    self._described(client)
                if not self.round:
                    self._evaluating_since = event.time
            case events.ClientTurnedAway():
                self.left_out[event.name] = event
                self._to(event.name, "refused", f"{event.reason}: {event.detail}" if event.detail else event.reason)
            case events.ClientReplaced():
                self.cohort[event.by] = None
                self._to(event.client, "away")
                self._chosen(event.by)
            case events.Broadcast():
                self._count(event.round, event.client, Traffic(downlink_bytes=event.downlink_bytes))
                self._asked(event)
            case events.ReplyReceived():
                self._count(event.round, event.client, Traffic(uplink_bytes=event.uplink_bytes))
                if event.purpose == "evaluate":
                    self._to(event.client, "training" if self._at(event.client).is_training else "ready")
            case events.UpdateReceived():
                self._count(event.counted_in, event.client, Traffic(uplink_bytes=event.uplink_bytes))
                self._updated(event)
            case events.UpdateRefused():
                self._count(event.round, event.client, Traffic(uplink_bytes=event.uplink_bytes))
                self.lost[event.client] = event.why
                detail = f"{event.why}: {event.detail}" if event.detail else event.why
                self._to(event.client, _LOST.get(event.reason, "refused"), detail).is_training = False
            case _:
                pass

    def _at(self, name: str) -> ClientNow:
        """A client, which this event changes."""
        self.changed[name] = None
        return self.standing.setdefault(name, ClientNow())

    def _to(self, name: str, state: str, detail: str | None = None) -> ClientNow:
        client = self._at(name)
        client.state, client.since, client.detail = state, self.last.time, detail
        return client

    def _chosen(self, name: str) -> None:
        client = self._to(name, "chosen")
        client.given = None

    def _described(self, described: events.DescribedClient) -> None:
        name = described.client
        self.clients[name] = described
        self.left_out.pop(name, None)
        if self._at(name).state in ("", "refused", "away"):
            self._to(name, "ready")

    def _round_started(self, event: events.RoundStarted) -> None:
        self.state, self._evaluating_since = "training", None
        self.round, self.round_began, self.in_round = event.round, event.time, True
        for name in self.cohort.keys() - set(event.cohort):
            if self.standing[name].state != "refused":
                self._to(name, "ready").given = None
        self.cohort, self.lost, self.took_s = dict.fromkeys(event.cohort), {}, []
        for name in event.cohort:
            if not self.is_async:
                self._chosen(name)
                continue
            # It begins when its clients are at work; a synchronous one before.
            client = self._to(name, "training")
            client.since, client.is_training = client.given or 0.0, True

    def _asked(self, event: events.Broadcast) -> None:
        if event.purpose == "train":
            client = self._to(event.client, "training")
            client.given, client.is_training = event.time, self.is_async
            if self.is_async and event.round == self.round:
                self.cohort[event.client] = None
        elif event.purpose == "evaluate":
            self._to(event.client, "evaluating")

    def _updated(self, event: events.UpdateReceived) -> None:
        client = self._to(event.client, "done")
        if client.updated_round != event.round:
            client.updated_round = event.round
            client.updates += 1
            self.accepted += 1
        if client.given is not None:
            bisect.insort(self.took_s, max(0.0, event.time - client.given))
        client.is_training, client.train_loss = False, event.train_loss
        self.lost.pop(event.client, None)
        if event.staleness is not None:
            self._staleness.append(event.staleness)

    def _round_finished(self, event: events.RoundFinished) -> None:
        self.state, self.in_round, self.newest_round = _EVALUATING, False, event
        self._evaluating_since = event.time
        self._round_s.append(event.wall_s or 0.0)
        if event.round == self.planned_rounds:
            # Clients at work then are stopped.
            for client in self.standing.values():
                client.is_training = False

    def _evaluated(self, event: events.Evaluated) -> None:
        if self._evaluating_since is not None:
            self._evaluation_s.append(max(0.0, event.time - self._evaluating_since))
            self._evaluating_since = None
        if self.state == "training":
            # In an asynchronous run training goes on beside an evaluation.
            self._evaluates_beside = True
        else:
            self.state = _BETWEEN
        if event.round == 0:
            self.base_evaluation = event
        self.newest_evaluation = event

    def _finished(self, event: events.RunFinished) -> None:
        self.state, self.end = _FINISHED, event
        for name, client in self.standing.items():
            # A client that waited for a task is done.
            if client.state not in ("", "ready", "refused", "away"):
                self._to(name, "ready")

    def _count(self, number: int, client: str, traffic: Traffic) -> None:
        if traffic.total_bytes:
            self.sent += traffic
            self.sent_by_round[number] = self.sent_by_round.get(number, Traffic()) + traffic
            self._at(client).sent += traffic

    @property
    def start(self) -> events.RunStarted:
        """The run's settings, base and adapter.

        Raises:
            PeerError: the ledger is not that of a run.
        """
        if isinstance(self.first, events.RunStarted):
            return self.first
        got = "empty" if self.first is None else repr(self.first.event or "of an unknown kind")
        raise PeerError(f"beginning of the ledger is {got}, expected 'run_started'")

    @property
    def settings(self) -> Mapping[str, JsonValue]:
        """All settings under the keys that users write; none where the ledger does not begin with them."""
        return self.first.config if isinstance(self.first, events.RunStarted) else {}

    @property
    def loss_is_minus(self) -> str:
        """What losses are minus the mean of, such as a reward; empty for losses."""
        return self.first.learned.loss_is_minus if isinstance(self.first, events.RunStarted) else ""

    @property
    def is_async(self) -> bool:
        """Whether rounds are asynchronous."""
        return isinstance(self.first, events.RunStarted) and self.first.is_async

    @property
    def finished(self) -> bool:
        """Whether the run has ended; otherwise everything here is preliminary."""
        return self.end is not None

    @property
    def done(self) -> int:
        """Number of finished rounds."""
        return self.newest_round.round if self.newest_round else 0

    @property
    def planned_rounds(self) -> int:
        """Rounds requested; the finished ones if the ledger does not record them."""
        return (self._setting("rounds") if self.first else self.rounds_before_start) or self.done

    @property
    def unfit(self) -> Mapping[str, events.ClientTurnedAway]:
        """Clients that cannot take part, as far as they were asked since the run was last resumed."""
        return {name: event for name, event in self.left_out.items() if event.seq > self._resumed}

    @property
    def late_after_s(self) -> float | None:
        """Seconds after which a client of this round is late; None where slow clients are not waited for."""
        return None if self.is_async else late_after_s(self.took_s)

    @property
    def round_s(self) -> float:
        """The time of the newest finished round; 0 before."""
        return self._round_s[-1] if self._round_s else 0.0

    @property
    def mean_staleness(self) -> float | None:
        """Of the most recent updates; None in a synchronous run."""
        return statistics.fmean(self._staleness) if self._staleness else None

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds for the remaining rounds and evaluations; None before the first round."""
        if not self._round_s:
            return None
        if self.finished:  # perhaps before its last round
            return 0.0
        evaluation_s = statistics.median(self._evaluation_s) if self._evaluation_s else 0.0
        rounds_s = statistics.median(self._round_s) * max(self.planned_rounds - self.done, 0)
        return rounds_s + evaluation_s * self._evaluations_to_go

    @property
    def _evaluations_to_go(self) -> int:
        """That the run waits for: by its cadence, after the last round, and the one in progress."""
        done, rounds, every = self.done, self.planned_rounds, max(1, self._setting("eval-every"))
        is_over = done >= rounds
        if self._evaluates_beside:
            return int(not is_over or self.state == _EVALUATING)
        is_due = is_over or done % every == 0
        return (0 if is_over else -(-rounds // every) - done // every) + (is_due and self.state == _EVALUATING)

    def _setting(self, key: str) -> int:
        value = self.settings.get(key)
        return value if isinstance(value, int) else 0


Progress: TypeAlias = Callable[[], AbstractContextManager[RunNow]]
"""Gives where a run stands, for as long as a block looks at it."""


class LiveProgress:
    """Where a run stands by its ledger so far, for several threads; each look reads only what was appended since."""

    def __init__(self, ledger: Path, *, rounds: int = 0) -> None:
        self._ledger = Follower(ledger)
        self._now = RunNow(rounds_before_start=rounds)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Generator[RunNow]:
        """The run as of now, which stays the same while the block runs."""
        with self._lock:
            for event in self._ledger.new_events():
                self._now.take(event)
            yield self._now

"""Send clients one task each, with the broadcast that each needs, and collect one answer from each.

A client that lacks what its broadcast builds on answers NEED_FULL and is at once sent what leads from the initial
adapter, or if it cannot derive that, the whole. Every byte is recorded, and every wait ends.
"""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Self

from plait.errors import PeerError, check_abandoned
from plait.ledger import events
from plait.ledger.events import Reason
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.channel import Channel, Data, NoAnswer, Patience, Purpose, TaskParts, group_of
from plait.rounds.roster import REPLY_BYTES, RunRoster
from plait.rounds.validate import max_update_bytes
from plait.wire.messages import Refusal, RefusalReason, Reply, Task, decode_reply, encode_task

_LOOK_S = 1.0  # interval of checks for clients that will not answer
# Moments of whole milliseconds, so that they do not depend on when a client was looked at before.
_DIGITS = 3


@dataclass(frozen=True)
class TaskResponse:
    """What came from a client, or why nothing will."""

    client: str
    data: Data | NoAnswer
    given_up: Reason | None = None
    waited_s: float = 0.0


@dataclass(eq=False)
class RequestBatch:
    """An exchange with clients by name. Leaving it withdraws what is unanswered."""

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
        """A client's next task is a new request; `asked_at` is when it began on the channel's clock, if before now."""
        self._asked_at[client] = self.channel.clock.now() if asked_at is None else asked_at
        self._due_at.pop(client, None)
        if expected_s is not None:
            self._due_at[client] = round(self._asked_at[client] + expected_s, _DIGITS)

    def settled(self, client: str) -> float:
        """A client's answer is its last one: the seconds that it took."""
        took_s = self.channel.clock.now() - self._asked_at[client]
        self._took_s.append(took_s)
        return took_s

    def next(self, deadline: float | None) -> TaskResponse | None:
        """The next response; None once all have answered or the deadline has passed."""
        while self._waiting:
            check_abandoned()
            now = self.channel.clock.now()
            left_s = None if deadline is None else max(0.0, deadline - now)
            look_s = max(0.0, min(self._due_at.values()) - now) if self._due_at else None
            if self.channel.open_ended:
                look_s = _LOOK_S
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
                return TaskResponse(client, data)
        return None

    def give_up(self) -> TaskResponse | None:
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
            return TaskResponse(client, NoAnswer(f"is connected, but {why}"), reason, asked_s)
        return None

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


NEED_FULL = "need-full"
"""The purpose, in the ledger, of an answer that asks for more of the adapter than was sent."""


@dataclass(frozen=True)
class RoundAnswer:
    """One client's final answer to a task: a decoded reply, or why there is none."""

    client: str
    reply: "Reply | NoAnswer"
    uplink_bytes: int
    given_up: Reason | None = None
    waited_s: float = 0.0
    took_s: float = 0.0


def mark_failed(roster: RunRoster, answer: RoundAnswer) -> None:
    """Ask a failed client nothing until it has described itself again."""
    if answer.client not in roster.nodes:
        return
    if answer.given_up and isinstance(answer.reply, NoAnswer):
        roster.cool_down(answer.client, answer.given_up, answer.reply.detail, waited_s=answer.waited_s)
    else:
        roster.mark_unhealthy(answer.client)


@dataclass(frozen=True)
class _Asked:
    """A client as it was when it was asked; it may leave the roster before it answers."""

    number: int
    broadcasts: Broadcasts
    node: int
    track: int


@dataclass(eq=False, kw_only=True)
class Dispatch:
    """Tasks of one purpose. Leaving it withdraws unanswered ones.

    Attributes:
        broadcasts: for clients that are asked from now on; those asked before stay with theirs.
    """

    roster: RunRoster
    broadcasts: Broadcasts
    held: Mapping[str, bytes]
    purpose: Purpose
    task: Callable[[str, int, bytes], Task]
    patience: Patience
    attempt: bytes = b""

    def __post_init__(self) -> None:
        group = group_of(self._number, self.attempt)
        self._asking = RequestBatch(self.roster.channel, purpose=self.purpose, group=group, patience=self.patience)
        self._asked: dict[str, _Asked] = {}
        self._sent_spec: set[str] = set()
        self._sent_whole: set[str] = set()
        self._layouts = [track.shadow.layout for track in self.broadcasts.state.tracks]

    @property
    def _number(self) -> int:
        """The round that the next tasks belong to."""
        return self.broadcasts.state.round + (self.purpose is Purpose.TRAIN)

    def __enter__(self) -> Self:
        self._asking.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._asking.__exit__(*error)

    def close(self) -> None:
        """Withdraw unanswered tasks: their answers are no longer needed."""
        self.__exit__(None, None, None)

    @property
    def waiting(self) -> frozenset[str]:
        """The clients that have not answered."""
        return self._asking.waiting

    @property
    def nodes(self) -> frozenset[int]:
        """Their nodes; one that has come back as another client still owes the first one's answer."""
        return frozenset(asked.node for asked in self._asked.values())

    def ask(self, client: str, *, expected_s: float | None = None, asked_at: float | None = None) -> None:
        """Send a client its task."""
        node, track = self.roster.nodes[client], self.roster.clients[client].track
        self._asked[client] = _Asked(self._number, self.broadcasts, node, track)
        self._sent_spec.discard(client)
        self._sent_whole.discard(client)
        self._asking.anew(client, expected_s=expected_s, asked_at=asked_at)
        self._send(client, self.held.get(client, b""))

    def withdraw(self, client: str, reason: str) -> None:
        """Stop waiting for a client's answer; `reason` is one word for its log."""
        self._asking.withdraw(client, reason)
        del self._asked[client]

    def next_answer(self, deadline: float | None) -> RoundAnswer | None:
        """The next client's answer, None once all have answered or the deadline has passed.

        If clients come and go, one that was given up has no reply, but a reason in `RoundAnswer.given_up`.
        """
        while heard := self._asking.next(deadline):
            client = heard.client
            answer = self._decode(heard)
            lacks = isinstance(answer.reply, Refusal) and answer.reply.reason is RefusalReason.NEED_FULL
            if not lacks or client in self._sent_whole:
                return self._final(heard, answer)
            self.roster.ledger.note(
                events.ReplyReceived(
                    round=self._asked[client].number,
                    client=client,
                    purpose=NEED_FULL,
                    uplink_bytes=answer.uplink_bytes,
                )
            )
            self._send(client, b"", whole=client in self._sent_spec)
        return None

    def give_up(self) -> RoundAnswer | None:
        """Give up a client that will not answer, if there is one: for those whose deadlines are always near."""
        heard = self._asking.give_up()
        return None if heard is None else self._final(heard, self._decode(heard))

    def _final(self, heard: TaskResponse, answer: RoundAnswer) -> RoundAnswer:
        # What it was asked holds a whole state of the run.
        del self._asked[heard.client]
        return answer if heard.given_up else replace(answer, took_s=self._asking.settled(heard.client))

    def _send(self, client: str, held: bytes, *, whole: bool = False) -> None:
        asked = self._asked[client]
        broadcasts, track, number = asked.broadcasts, asked.track, asked.number
        whole = whole or not (held or broadcasts.is_derivable(track))
        if whole:
            self._sent_whole.add(client)
        elif not held:
            self._sent_spec.add(client)
        broadcast = broadcasts.whole(track) if whole else broadcasts.leading_from(held, track)
        parts = encode_task(self.task(client, number, broadcast), whole=not held)
        cost = broadcasts.cost(broadcast, track)
        self.roster.ledger.note(
            events.Broadcast(
                round=number,
                client=client,
                purpose=self.purpose.value,
                downlink_bytes=sum(map(len, parts)),
                payload_bytes=cost.payload_bytes,
                envelope_bytes=cost.envelope_bytes,
                codec=cost.codec,
                bits_per_parameter=cost.bits_per_parameter,
            )
        )
        self._asking.send(client, asked.node, parts, group=group_of(number, self.attempt))

    def _decode(self, heard: TaskResponse) -> RoundAnswer:
        client, raw = heard.client, heard.data
        if isinstance(raw, NoAnswer):
            return RoundAnswer(client, raw, 0, heard.given_up, heard.waited_s)
        most = max(max_update_bytes(layout) for layout in self._layouts)
        try:
            return RoundAnswer(client, decode_reply(raw, max_bytes=REPLY_BYTES + most), len(raw))
        except PeerError as error:
            return RoundAnswer(client, Refusal(client, RefusalReason.MALFORMED, str(error)), len(raw))

"""Send clients one task each in one round, with the broadcast that each needs, and collect one answer from each.

A client that lost its adapter says so and is sent the whole one at once. Every byte is recorded in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.channel import Channel, Data, NoAnswer, Purpose
from plait.rounds.description import REPLY_BYTES
from plait.rounds.ledger import Ledger
from plait.rounds.patience import Patience
from plait.rounds.roster import Roster
from plait.rounds.run_state import Held, RunState
from plait.rounds.validate import Reason, max_update_bytes
from plait.wire.envelope import measure, read_envelope
from plait.wire.messages import Refusal, RefusalReason, Reply, Task, decode_reply, encode_task

_LOOK_S = 1.0  # interval of checks for clients that will not answer


@dataclass(frozen=True)
class Answer:
    """One client's final answer to a task: a decoded reply, or the reason that there is none.

    Attributes:
        given_up: why the client was given up, if that is why there is no reply.
        waited_s: how long it was waited for then.
        took_s: from the task to the reply, on the channel's clock.
    """

    client: str
    reply: Reply | NoAnswer
    uplink_bytes: int
    given_up: Reason | None = None
    waited_s: float = 0.0
    took_s: float = 0.0

    @property
    def needs_full(self) -> bool:
        """Whether the client lacks what the broadcast builds on."""
        return isinstance(self.reply, Refusal) and self.reply.reason == RefusalReason.NEED_FULL


@dataclass(eq=False, kw_only=True)
class Dispatch:
    """Tasks of one purpose in one round. Leaving it withdraws unanswered ones.

    Attributes:
        state: the state to bring the clients to.
        broadcasts: the envelopes for that.
        ledger: records every task, and every client that lost its adapter.
        task: makes a client's task from a broadcast and the base's movement.
        patience: how long to wait for clients that come and go.
    """

    channel: Channel
    roster: Roster
    state: RunState
    broadcasts: Broadcasts
    ledger: Ledger
    purpose: Purpose
    number: int
    task: Callable[[str, bytes, bytes], Task]
    patience: Patience

    def __post_init__(self) -> None:
        self._exchange = self.channel.exchange(self.purpose, str(self.number))
        self._waiting: dict[int, str] = {}
        self._asked_at: dict[str, float] = {}
        self._took_s: list[float] = []
        self._sent_whole: set[str] = set()
        self._max_bytes = REPLY_BYTES + max(max_update_bytes(track.shadow.layout) for track in self.state.tracks)

    def __enter__(self) -> Self:
        self._exchange.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._exchange.__exit__(*error)

    @property
    def waiting(self) -> frozenset[str]:
        """The clients that have not answered."""
        return frozenset(self._waiting.values())

    def ask(self, client: str) -> None:
        """Send a client its task."""
        self._asked_at[client] = self.channel.clock.now()
        self._send(client, self.state.held.get(client, Held()))

    def next_answer(self, deadline: float | None) -> Answer | None:
        """The next client's answer.

        Args:
            deadline: on the channel's clock; None for none.

        Returns:
            The answer, or None once everybody answered or the deadline passed. If clients come and go, one that was
            given up has no reply, and `Answer.given_up` says why.
        """
        open_ended = self.channel.open_ended
        while self._waiting:
            left_s = None if deadline is None else max(0.0, deadline - self.channel.clock.now())
            slice_s = left_s if not open_ended else _LOOK_S if left_s is None else min(left_s, _LOOK_S)
            received = self._exchange.receive(slice_s)
            if received is None:
                if slice_s == left_s:
                    return None
                if given_up := self._give_up():
                    return given_up
                continue
            node, raw = received
            client = self._waiting.pop(node, None)
            if client is None:
                continue  # was not asked, or has answered
            answer = self._decode(client, raw)
            if not answer.needs_full or client in self._sent_whole:
                took_s = self.channel.clock.now() - self._asked_at[client]
                self._took_s.append(took_s)
                return replace(answer, took_s=took_s)
            self.ledger.note(
                events.UpdateRefused(
                    round=self.number,
                    client=client,
                    reason=Reason.NEED_FULL.value,
                    detail="sent the whole adapter",
                    uplink_bytes=answer.uplink_bytes,
                )
            )
            self._send(client, Held())
        return None

    def _give_up(self) -> Answer | None:
        """Give up a client that is silent, or far slower than the others: its task is withdrawn."""
        now = self.channel.clock.now()
        for node, client in self._waiting.items():
            asked_s = now - self._asked_at[client]
            if self.patience.is_silent(asked_s=asked_s, idle_s=self.channel.liveness(node).idle_s):
                reason, why = Reason.SILENT, f"has shown no progress for {self.patience.silent_s:.0f} s"
            elif self.patience.is_slow(asked_s=asked_s, took_s=self._took_s, asked=len(self._asked_at)):
                reason, why = Reason.SLOW, f"has not answered in {asked_s:.0f} s, far longer than the others took"
            else:
                continue
            del self._waiting[node]
            self._exchange.withdraw(node, reason.value)
            return Answer(client, NoAnswer(f"is connected, but {why}"), 0, given_up=reason, waited_s=asked_s)
        return None

    def _send(self, client: str, held: Held) -> None:
        if not held.adapter:
            self._sent_whole.add(client)
        track = self.roster.tracks[client]
        broadcast = self.broadcasts.leading_from(held.adapter, track)
        base = self.broadcasts.base_leading_from(held)
        parts = encode_task(self.task(client, broadcast, base), whole=not held.adapter)
        sent = read_envelope(broadcast, max_bytes=len(broadcast))
        cost = measure(sent, layout=self.state.tracks[track].shadow.layout)
        self.ledger.note(
            events.Broadcast(
                round=self.number,
                client=client,
                purpose=self.purpose.value,
                downlink_bytes=sum(map(len, parts)),
                payload_bytes=cost.payload_bytes,
                envelope_bytes=cost.envelope_bytes,
                codec=cost.codec,
                bits_per_parameter=cost.bits_per_parameter,
                base_bytes=len(base) or None,
            )
        )
        node = self.roster.nodes[client]
        self._waiting[node] = client
        self._exchange.send(node, parts)

    def _decode(self, client: str, raw: Data | NoAnswer) -> Answer:
        if isinstance(raw, NoAnswer):
            return Answer(client, raw, 0)
        try:
            return Answer(client, decode_reply(raw, max_bytes=self._max_bytes), len(raw))
        except PeerError as error:
            return Answer(client, Refusal(client, RefusalReason.MALFORMED, str(error)), len(raw))

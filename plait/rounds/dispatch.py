"""Send clients one task each, with the broadcast that each needs, and collect one answer from each.

A client that lacks what its broadcast builds on says so and is at once sent what leads from the initial adapter, or if
it cannot derive that, the whole. Every byte is recorded in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.asking import Asking, Heard
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.channel import Channel, Data, NoAnswer, Purpose, group_of
from plait.rounds.description import REPLY_BYTES
from plait.rounds.ledger import Ledger
from plait.rounds.patience import Patience
from plait.rounds.reason import Reason
from plait.rounds.roster import Roster
from plait.rounds.validate import max_update_bytes
from plait.wire.messages import Refusal, RefusalReason, Reply, Task, decode_reply, encode_task

NEED_FULL = "need-full"
"""The purpose, in the ledger, of an answer that asks for more of the adapter than was sent."""


@dataclass(frozen=True)
class Answer:
    """One client's final answer to a task: a decoded reply, or why there is none.

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


def doubt(roster: Roster, answer: Answer) -> None:
    """Ask a failed client nothing until it has described itself again."""
    if answer.client not in roster.nodes:
        return
    if answer.given_up and isinstance(answer.reply, NoAnswer):
        roster.rest(answer.client, answer.given_up, answer.reply.detail, waited_s=answer.waited_s)
    else:
        roster.doubt(answer.client)


@dataclass(frozen=True)
class Aim:
    """What clients are asked to do.

    Attributes:
        number: the round that their tasks are for.
        broadcasts: the envelopes that bring them to the state that it starts from.
    """

    number: int
    broadcasts: Broadcasts


@dataclass(frozen=True)
class _Asked:
    """A client as it was when it was asked; it may leave the roster before it answers."""

    aim: Aim
    node: int
    track: int


@dataclass(eq=False, kw_only=True)
class Dispatch:
    """Tasks of one purpose. Leaving it withdraws unanswered ones.

    Attributes:
        aim: what clients are asked from now on; those asked before stay with theirs.
        held: what each client holds, by client name, as far as that is known.
        ledger: records every task, and every answer that asks for more of the adapter.
        task: makes a client's task for a round, from a broadcast.
        patience: how long to wait for clients that come and go.
        attempt: of the masked sum that the tasks belong to; empty for none.
    """

    channel: Channel
    roster: Roster
    aim: Aim
    held: Mapping[str, bytes]
    ledger: Ledger
    purpose: Purpose
    task: Callable[[str, int, bytes], Task]
    patience: Patience
    attempt: bytes = b""

    def __post_init__(self) -> None:
        group = group_of(self.aim.number, self.attempt)
        self._asking = Asking(self.channel, purpose=self.purpose, group=group, patience=self.patience)
        self._asked: dict[str, _Asked] = {}
        self._sent_spec: set[str] = set()
        self._sent_whole: set[str] = set()
        self._layouts = [track.shadow.layout for track in self.aim.broadcasts.state.tracks]

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
        """Send a client its task.

        Args:
            expected_s: how long it is expected to take; None if that is not known.
            asked_at: when it was asked, on the channel's clock, if that was before.
        """
        self._asked[client] = _Asked(self.aim, self.roster.nodes[client], self.roster.tracks[client])
        self._sent_spec.discard(client)
        self._sent_whole.discard(client)
        self._asking.anew(client, expected_s=expected_s, asked_at=asked_at)
        self._send(client, self.held.get(client, b""))

    def withdraw(self, client: str, reason: str) -> None:
        """Stop waiting for a client's answer; `reason` is one word for its log."""
        self._asking.withdraw(client, reason)
        del self._asked[client]

    def next_answer(self, deadline: float | None) -> Answer | None:
        """The next client's answer.

        Args:
            deadline: on the channel's clock; None for none.

        Returns:
            The answer, or None once all have answered or the deadline has passed. If clients come and go, one that was
            given up has no reply, and `Answer.given_up` says why.
        """
        while heard := self._asking.next(deadline):
            client = heard.client
            answer = self._decode(client, heard.data)
            if not answer.needs_full or client in self._sent_whole:
                return self._final(heard, answer)
            self.ledger.note(
                events.ReplyReceived(
                    round=self._asked[client].aim.number,
                    client=client,
                    purpose=NEED_FULL,
                    uplink_bytes=answer.uplink_bytes,
                )
            )
            self._send(client, b"", whole=client in self._sent_spec)
        return None

    def give_up(self) -> Answer | None:
        """Give up a client that will not answer, if there is one: for those whose deadlines are always near."""
        heard = self._asking.give_up()
        return None if heard is None else self._final(heard, self._decode(heard.client, heard.data))

    def _final(self, heard: Heard, answer: Answer) -> Answer:
        # What it was asked holds a whole state of the run.
        del self._asked[heard.client]
        if heard.given_up:
            return replace(answer, given_up=heard.given_up, waited_s=heard.waited_s)
        return replace(answer, took_s=self._asking.settled(heard.client))

    def _send(self, client: str, held: bytes, *, whole: bool = False) -> None:
        asked = self._asked[client]
        aim, track = asked.aim, asked.track
        whole = whole or not (held or aim.broadcasts.is_derivable(track))
        if whole:
            self._sent_whole.add(client)
        elif not held:
            self._sent_spec.add(client)
        broadcast = aim.broadcasts.whole(track) if whole else aim.broadcasts.leading_from(held, track)
        parts = encode_task(self.task(client, aim.number, broadcast), whole=not held)
        cost = aim.broadcasts.cost(broadcast, track)
        self.ledger.note(
            events.Broadcast(
                round=aim.number,
                client=client,
                purpose=self.purpose.value,
                downlink_bytes=sum(map(len, parts)),
                payload_bytes=cost.payload_bytes,
                envelope_bytes=cost.envelope_bytes,
                codec=cost.codec,
                bits_per_parameter=cost.bits_per_parameter,
            )
        )
        self._asking.send(client, asked.node, parts, group=group_of(aim.number, self.attempt))

    def _decode(self, client: str, raw: Data | NoAnswer) -> Answer:
        if isinstance(raw, NoAnswer):
            return Answer(client, raw, 0)
        most = max(max_update_bytes(layout) for layout in self._layouts)
        try:
            return Answer(client, decode_reply(raw, max_bytes=REPLY_BYTES + most), len(raw))
        except PeerError as error:
            return Answer(client, Refusal(client, RefusalReason.MALFORMED, str(error)), len(raw))

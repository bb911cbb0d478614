"""One stage of a masked sum, over a channel: some clients are asked, and heard until all have answered or time is up.

A client that gives no answer in time, another's, or one that is refused is a dropout, with its reason and its stage in
the ledger. Knows nothing of what the answers mean.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.channel import NoAnswer, Purpose, TaskParts, group_of
from plait.rounds.cohort import ServerSide
from plait.rounds.dispatch import Asking, Heard
from plait.rounds.events import Reason
from plait.rounds.ledger import Ledger
from plait.rounds.roster import REPLY_BYTES
from plait.secagg import messages
from plait.secagg.roster import Offer, Session
from plait.wire.messages import Refusal, RefusalReason, decode_reply, encode_task

_STAGE_BYTES = 1 << 22
_Kind = TypeVar("_Kind", bound=messages.Answered)

TRAINING_STAGE = "training"
_STAGES: Mapping[type[messages.Answered], str] = {
    Offer: "keys",
    messages.Parcels: "shares",
    messages.Ready: "delivery",
    messages.Opened: "opening",
    messages.Signed: "signatures",
    messages.Revealed: "unmasking",
}
"""The names of the stages, by what is answered."""


@dataclass(eq=False)
class MaskedStage(Generic[_Kind]):
    """A stage, by what each client is asked; leaving it withdraws what is unanswered.

    Attributes:
        is_declined: whether a client's policy or journal forbids what it was asked.
    """

    server: ServerSide
    session: Session
    stages: Mapping[str, messages.Stage]
    kind: type[_Kind]
    is_declined: bool = False

    def __post_init__(self) -> None:
        server, self._name = self.server, _STAGES[self.kind]
        self._patience, self._clients, self._ledger = server.patience, server.roster, server.ledger
        group = group_of(self.session.round, self.session.attempt, self._name)
        self._asking = Asking(server.channel, purpose=Purpose.MASK, group=group, patience=self._patience.for_stages)
        self._most_s = 0.0
        self._deadline: float | None = None

    def __enter__(self) -> Self:
        self._asking.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._asking.__exit__(*error)

    def __iter__(self) -> Iterator[tuple[str, _Kind]]:
        """Ask, and give the answers of this kind; those that have none are recorded."""
        self._ask()
        while heard := self._asking.next(self._deadline):
            answer: _Kind | None = None
            with self.dropping(heard.client):
                answer = self._read(heard)
            if answer is not None:
                yield heard.client, answer
        for name in sorted(self._asking.waiting):
            if self._deadline is None:
                self._drop(name, Reason.NO_ANSWER, "gave no answer")
                continue
            detail = f"gave no answer in {self._most_s:.0f} s, whatever progress it reported"
            self._drop(name, Reason.LATE, detail)
            # So that it holds no further stage as long.
            self._clients.rest(name, Reason.LATE, detail, waited_s=self._most_s)

    @contextmanager
    def dropping(self, name: str) -> Generator[None]:
        """Make an answer that is refused a dropout."""
        with dropped(self._ledger, self.session.round, name, self._name):
            yield

    def _ask(self) -> None:
        encoded: dict[int, TaskParts] = {}
        sizes: list[int] = []
        for name, stage in self.stages.items():
            if name not in self._clients.nodes:
                self._drop(name, Reason.NO_ANSWER, "has left")
                continue
            if id(stage) not in encoded:
                encoded[id(stage)] = encode_task(messages.MaskingTask(self.session, stage))
            parts = encoded[id(stage)]
            sizes.append(sum(map(len, parts)))
            number, purpose = self.session.round, Purpose.MASK.value
            self._ledger.note(events.Broadcast(round=number, client=name, purpose=purpose, downlink_bytes=sizes[-1]))
            self._asking.send(name, self._clients.nodes[name], parts)
        channel = self.server.channel
        if channel.open_ended and sizes:
            self._most_s = self._patience.most_stage_s(len(sizes), task_bytes=max(sizes), all_bytes=sum(sizes))
            self._deadline = channel.clock.now() + self._most_s

    def _read(self, heard: Heard) -> _Kind | None:
        """The answer of a client; None if it has none."""
        name, raw = heard.client, heard.data
        if isinstance(raw, NoAnswer):
            self._drop(name, heard.given_up or Reason.NO_ANSWER, raw.detail)
            if heard.given_up:
                self._clients.rest(name, heard.given_up, raw.detail, waited_s=heard.waited_s)
            else:
                self._clients.doubt(name)
            return None
        self._asking.settled(name)
        number, purpose = self.session.round, Purpose.MASK.value
        self._ledger.note(events.ReplyReceived(round=number, client=name, purpose=purpose, uplink_bytes=len(raw)))
        reply = decode_reply(raw, max_bytes=REPLY_BYTES + _STAGE_BYTES)
        if isinstance(reply, Refusal):
            self.is_declined |= reply.reason is RefusalReason.POLICY
            # Its own words stay out of the ledger of a masked run.
            self._drop(name, reply.code, "the client refused")
            return None
        if isinstance(reply, messages.MaskedReply) and reply.client == name and isinstance(reply.answer, self.kind):
            return reply.answer
        raise PeerError(f"answer is another's or of another kind, expected {self.kind.__name__} of {name!a}")

    def _drop(self, name: str, reason: str, detail: str) -> None:
        drop(self._ledger, self.session.round, name, self._name, reason, detail)


def drop(ledger: Ledger, number: int, name: str, stage: str, reason: str, detail: str) -> None:
    """Record that a client dropped out of a masked sum."""
    ledger.append(events.UpdateRefused(round=number, client=name, reason=str(reason), detail=detail, stage=stage))


@contextmanager
def dropped(ledger: Ledger, number: int, name: str, stage: str) -> Generator[None]:
    """Make what is refused of a client its dropout at this stage."""
    try:
        yield
    except PeerError as error:
        drop(ledger, number, name, stage, Reason.MALFORMED, str(error))

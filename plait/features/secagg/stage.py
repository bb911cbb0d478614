"""One stage of a masked sum, over a channel: some clients are asked, and heard until all have answered or time is up.

A client that gives no answer in time, another's, or one that is refused is a dropout, with its reason and its stage in
the ledger. Knows nothing of what the answers mean.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Generic, Self, TypeVar

from plait.errors import PeerError
from plait.features.secagg.messages import (
    Answered,
    MaskedReply,
    MaskingTask,
    Opened,
    Parcels,
    Ready,
    Revealed,
    Signed,
    Stage,
)
from plait.features.secagg.roster import Offer, Session
from plait.rounds import events
from plait.rounds.channel import Channel, NoAnswer, Purpose, TaskParts, group_of
from plait.rounds.dispatch import Asking, Heard
from plait.rounds.events import Reason
from plait.rounds.ledger import Ledger
from plait.rounds.patience import Patience
from plait.rounds.roster import REPLY_BYTES
from plait.rounds.roster import Roster as Clients
from plait.wire.messages import Refusal, RefusalReason, decode_reply, encode_task

_STAGE_BYTES = 1 << 22
_Kind = TypeVar("_Kind", bound=Answered)

TRAINING_STAGE = "training"
_STAGES: Mapping[type[Answered], str] = {
    Offer: "keys",
    Parcels: "shares",
    Ready: "delivery",
    Opened: "opening",
    Signed: "signatures",
    Revealed: "unmasking",
}
"""The names of the stages, by what is answered."""


@dataclass(eq=False)
class MaskedStage(Generic[_Kind]):
    """A stage; leaving it withdraws what is unanswered.

    Attributes:
        clients: of the run, as far as they can be reached.
        stages: what each client is asked, by name.
        patience: how long to wait for clients that come and go.
        is_declined: whether a client's policy or journal forbids what it was asked.
    """

    channel: Channel
    clients: Clients
    ledger: Ledger
    session: Session
    stages: Mapping[str, Stage]
    kind: type[_Kind]
    _: KW_ONLY
    patience: Patience

    def __post_init__(self) -> None:
        self._name = _STAGES[self.kind]
        patience = self.patience.for_stages
        group = group_of(self.session.round, self.session.attempt, self._name)
        self._most_s = 0.0
        self._asking = Asking(self.channel, purpose=Purpose.MASK, group=group, patience=patience)
        self._deadline: float | None = None
        self.is_declined = False

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
            self.clients.rest(name, Reason.LATE, detail, waited_s=self._most_s)

    @contextmanager
    def dropping(self, name: str) -> Generator[None]:
        """Make an answer that is refused a dropout."""
        with dropped(self.ledger, self.session.round, name, self._name):
            yield

    def _ask(self) -> None:
        encoded: dict[int, TaskParts] = {}
        sizes: list[int] = []
        for name, stage in self.stages.items():
            if name not in self.clients.nodes:
                self._drop(name, Reason.NO_ANSWER, "has left")
                continue
            if id(stage) not in encoded:
                encoded[id(stage)] = encode_task(MaskingTask(self.session, stage))
            parts = encoded[id(stage)]
            sizes.append(sum(map(len, parts)))
            self.ledger.note(
                events.Broadcast(
                    round=self.session.round,
                    client=name,
                    purpose=Purpose.MASK.value,
                    downlink_bytes=sizes[-1],
                )
            )
            self._asking.send(name, self.clients.nodes[name], parts)
        if self.channel.open_ended and sizes:
            self._most_s = self.patience.most_stage_s(len(sizes), task_bytes=max(sizes), all_bytes=sum(sizes))
            self._deadline = self.channel.clock.now() + self._most_s

    def _read(self, heard: Heard) -> _Kind | None:
        """The answer of a client; None if it has none."""
        name, raw = heard.client, heard.data
        if isinstance(raw, NoAnswer):
            self._drop(name, heard.given_up or Reason.NO_ANSWER, raw.detail)
            if heard.given_up:
                self.clients.rest(name, heard.given_up, raw.detail, waited_s=heard.waited_s)
            else:
                self.clients.doubt(name)
            return None
        self._asking.settled(name)
        self.ledger.note(
            events.ReplyReceived(
                round=self.session.round, client=name, purpose=Purpose.MASK.value, uplink_bytes=len(raw)
            )
        )
        reply = decode_reply(raw, max_bytes=REPLY_BYTES + _STAGE_BYTES)
        if isinstance(reply, Refusal):
            self.is_declined |= reply.reason is RefusalReason.POLICY
            # Its own words stay out of the ledger of a masked run.
            self._drop(name, reply.code, "the client refused")
            return None
        if not isinstance(reply, MaskedReply) or reply.client != name or not isinstance(reply.answer, self.kind):
            raise PeerError(f"answer is another's or of another kind, expected {self.kind.__name__} of {name!a}")
        return reply.answer

    def _drop(self, name: str, reason: str, detail: str) -> None:
        drop(self.ledger, self.session.round, name, self._name, reason, detail)


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

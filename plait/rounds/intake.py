"""What becomes of an answer: an update is checked, stored and recorded, all others are recorded as well.

Paces and what private records have cost follow from the record. Knows no round loop and no rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.channel import Channel, NoAnswer
from plait.rounds.dispatch import Answer
from plait.rounds.events import Reason
from plait.rounds.ledger import Ledger
from plait.rounds.roster import Roster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState
from plait.rounds.run_view import Recorded
from plait.rounds.spool import Arrival, Spool, Stored
from plait.rounds.validate import Expected, UpdateRefused, open_update
from plait.wire.envelope import EPSILON, Opened
from plait.wire.messages import Refusal, UpdateReply, encode_reply
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.rounds.paces import Paces


@dataclass(eq=False)
class AnswerLog:
    """The answers of one run.

    Attributes:
        misfits: rounds, clients and reasons of the recorded refusals.
        epsilons: what private records have cost so far, by client, as it said last.
        last: the newest refusal in words, to say why a round failed.
    """

    channel: Channel
    ledger: Ledger
    misfits: set[tuple[int, str, str]] = field(default_factory=set[tuple[int, str, str]])
    epsilons: dict[str, float] = field(default_factory=dict[str, float])
    paces: Paces | None = None
    last: str = ""
    _newest: dict[str, events.UpdateReceived] = field(default_factory=dict[str, events.UpdateReceived])

    def figures(self, number: int) -> dict[str, events.UpdateReceived]:
        """What clients said of their training in round `number`, as far as this process has heard it."""
        return {client: said for client, said in self._newest.items() if said.round == number}

    def recall(self, recorded: Recorded) -> None:
        """Take what an earlier process has heard."""
        self.misfits.update(recorded.misfits)
        self.epsilons.update(recorded.epsilons)
        self._newest.update(recorded.newest)

    def tell(self, event: events.Event) -> None:
        """Record an event from which clients' paces follow."""
        self.ledger.append(event)
        self._measure(event)

    def expected_s(self, client: str, steps: int = 0) -> float | None:
        """How long a client's task is expected to take, as `Paces` says; None if that is not known."""
        return self.paces.expected_s(client, steps) if self.paces else None

    def _measure(self, event: events.Event) -> None:
        if self.paces:
            self.paces.take(event)

    def update(self, opened: Opened, stored: Stored, *, uplink_bytes: int, took_s: float | None = None) -> None:
        """Record an update that is stored; durably where the order of arrival decides what it is folded with."""
        metrics, arrival = opened.header.metrics, stored.arrival
        # Proof that the client's key signed this update, for when the update itself is gone.
        received = events.UpdateReceived(
            round=opened.header.round,
            client=opened.header.client,
            uplink_bytes=uplink_bytes,
            payload_bytes=opened.encoding.payload_bytes,
            envelope_bytes=opened.encoding.envelope_bytes,
            codec=opened.encoding.codec,
            bits_per_parameter=opened.encoding.bits_per_parameter,
            distortion=metrics.get("distortion"),
            codec_s=round(metrics.get("codec_s", 0.0) + opened.encoding.codec_s, 4),
            examples=opened.header.examples,
            tokens=int(metrics.get("train_tokens", 0)),
            train_loss=metrics.get("train_loss"),
            first_loss=metrics.get("first_loss"),
            learning_rate=metrics.get("learning_rate"),
            shortened=metrics.get("shortened"),
            reward=metrics.get("reward"),
            refused_completions=None if (refused := metrics.get("refused_completions")) is None else int(refused),
            train_s=metrics.get("train_s"),
            took_s=took_s,
            digest=opened.delta.digest().hex(),
            norms={figure: norm for figure, norm in stored.norms.items() if norm},
            signed=opened.signed.hex() if opened.signature else None,
            signature=opened.signature.hex() if opened.signature else None,
            epsilon=metrics.get(EPSILON),
            fold=arrival and arrival.fold,
            staleness=arrival and arrival.staleness,
            weight=arrival and arrival.weight,
        )
        self._newest[received.client] = received
        if received.epsilon is not None:
            self.epsilons[received.client] = received.epsilon
        if arrival:
            self.ledger.append(received)
        else:
            self.ledger.note(received)
        self._measure(received)

    def failure(self, number: int, answer: Answer, *, reason: str = Reason.NO_ANSWER, stage: str = "") -> None:
        """Record an invalid answer to the task of round `number`."""
        reply = answer.reply
        if isinstance(reply, Refusal):
            # A client's own words stay out of the ledger of a masked run.
            why, detail = reply.code, "the client refused" if stage else reply.detail
        elif isinstance(reply, NoAnswer):
            why, detail = answer.given_up or reason, reply.detail
        else:
            why, detail = Reason.MALFORMED, f"{type(reply).__name__} is not an answer to this task"
        self.refusal(number, answer, why, detail, stage=stage)

    def misfit(self, number: int, client: str, reason: Reason, detail: str) -> None:
        """Record once a refusal that a fold brings: a round that was killed while folding is folded again."""
        if (number, client, reason.value) not in self.misfits:
            self.misfits.add((number, client, reason.value))
            self.refusal(number, Answer(client, NoAnswer(detail), 0), reason, detail)

    def refusal(self, number: int, answer: Answer, reason: str, detail: str, *, stage: str = "") -> None:
        """Record an answer that does not count."""
        self.last = f"; client {answer.client!r}: {detail}"
        self.ledger.append(
            events.UpdateRefused(
                round=number,
                client=answer.client,
                reason=str(reason),
                detail=detail,
                uplink_bytes=answer.uplink_bytes,
                stage=stage,
            )
        )

    def note_ended(self, number: int, roster: Roster) -> None:
        """Record what simulated devices did."""
        for event in self.channel.clock.ended(number, {node: client for client, node in roster.nodes.items()}):
            self.ledger.note(event)
            self._measure(event)


Checked: TypeAlias = "tuple[Opened, Stored] | UpdateRefused"
"""A usable update, or why it is not usable."""


@dataclass(eq=False)
class Intake:
    """The updates of one run.

    Attributes:
        steps: that clients were asked for, by round and client, where each has its own number.
    """

    spool: Spool
    directory: RunDirectory
    log: AnswerLog
    settings: Settings
    steps: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])

    def expected(self, state: RunState, number: int, client: str, roster: Roster) -> Expected:
        """What an update must say of itself."""
        return replace(
            self.spool.expected(state, number, client, roster.tracks[client]),
            examples=roster.cards[client].train_examples,
            public_key=roster.keys[client],
            epsilon=self.settings.record_epsilon if self.settings.records_are_private else None,
        )

    def open(
        self, state: RunState, expected: Expected, track: int, update: bytes, *, arrival: Arrival | None = None
    ) -> Checked:
        """Check an update; changes nothing, so several threads may do so at once."""
        try:
            opened = open_update(update, expected)
            self.spool.check(opened, expected, track)
        except UpdateRefused as refused:
            return refused
        steps = self.steps.get((expected.round, expected.client), 0)
        return opened, self.spool.stored(opened, state, track, steps=steps, arrival=arrival)

    def commit_update(self, expected: Expected, update: bytes, answer: Answer, checked: Checked) -> Stored | None:
        """Accept an update: its bytes, then its record; or record why it is not usable.

        Killed before the bytes are whole, the client is asked again. Killed before the record, the run finds the bytes
        (`recover`) and completes the ledger. Only where the order of arrival decides the fold is the record durable at
        once; else a power cut may take it until the round ends, and `recover` gives it again.
        """
        if isinstance(checked, UpdateRefused):
            self.log.refusal(expected.round, answer, checked.reason, str(checked))
            return None
        opened, stored = checked
        self.directory.store_update(expected.round, expected.client, update)
        took_s = None if self.log.channel.clock.is_virtual else round(answer.took_s, 3)
        self.log.update(opened, stored, uplink_bytes=answer.uplink_bytes, took_s=took_s)
        return stored

    def recover(
        self,
        state: RunState,
        number: int,
        client: str,
        *,
        is_recorded: bool,
        arrival: Arrival | None = None,
    ) -> Stored | None:
        """An update that an earlier part of the run has stored, if there is one; the ledger is completed."""
        update = self.directory.load_update(number, client)
        if update is None:
            return None
        try:
            steps = self.steps.get((number, client), 0)
            opened, stored = self.spool.open(state, number, client, update, steps=steps, arrival=arrival)
        except PeerError:
            return None
        if not is_recorded:
            self.log.update(opened, stored, uplink_bytes=len(encode_reply(UpdateReply(update))))
        return stored

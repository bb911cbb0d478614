"""What becomes of an update that came in: it is checked against what its client was asked for, stored, and recorded.

Knows no round loop: it is told which round an update is for, and from which state its client started.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from plait.errors import PeerError
from plait.rounds.answer_log import AnswerLog
from plait.rounds.dispatch import Answer
from plait.rounds.roster import Roster
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState
from plait.rounds.spool import Arrival, Spool, Stored
from plait.rounds.validate import Expected, UpdateRefused, open_update
from plait.wire.envelope import Opened
from plait.wire.messages import UpdateReply, encode_reply
from plait.wire.settings import Settings

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
            epsilon=(self.settings.record_epsilon or math.inf) if self.settings.records_are_private else None,
        )

    def receive(
        self,
        state: RunState,
        expected: Expected,
        track: int,
        update: bytes,
        answer: Answer,
        *,
        arrival: Arrival | None = None,
    ) -> Stored | None:
        """Store an update if it is usable.

        Args:
            expected: what it must say.
            arrival: how it came, where that is not in its own round.
        """
        return self.settle(expected, update, answer, self.open(state, expected, track, update, arrival=arrival))

    def open(
        self, state: RunState, expected: Expected, track: int, update: bytes, *, arrival: Arrival | None = None
    ) -> Checked:
        """Check an update; changes nothing, so several threads may do so at once. Parameters are those of `receive`."""
        try:
            opened = open_update(update, expected)
            self.spool.check(opened, expected, track)
        except UpdateRefused as refused:
            return refused
        steps = self.steps.get((expected.round, expected.client), 0)
        return opened, self.spool.stored(opened, state, track, steps=steps, arrival=arrival)

    def settle(self, expected: Expected, update: bytes, answer: Answer, checked: Checked) -> Stored | None:
        """Store an update that was found usable; parameters are those of `receive`."""
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

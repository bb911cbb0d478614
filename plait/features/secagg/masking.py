"""A client's part in the masked sums of its run: answers their stages, and masks its update or its losses.

Where it stands is stored before an answer leaves, private to the client's owner: so a client that was killed neither
gives two shares of one peer nor sends two updates under one mask. Knows no model and no channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plait.errors import PeerError
from plait.features.secagg.client import MaskingClient
from plait.features.secagg.messages import (
    Answered,
    Delivery,
    MaskedReply,
    MaskedUpdate,
    MaskingTask,
    Opened,
    Opening,
    Parcels,
    Ready,
    Revealed,
    Signed,
    Survivors,
    Unmasking,
)
from plait.features.secagg.ring import Ring
from plait.features.secagg.roster import Roster, Session
from plait.features.secagg.sum_journal import SumJournal
from plait.rounds.asked import Asked
from plait.rounds.memory import Memory
from plait.trust.identity import NodeIdentity
from plait.wire.messages import EvaluateTask, TrainTask

_KEY = "secagg"
_TASKS = {"train": TrainTask, "evaluate": EvaluateTask}


@dataclass(eq=False)
class Masking:
    """One client.

    Attributes:
        identity: None if the driver does not prove keys, so that no sum can be masked.
        journal: of the client's data over all runs; None in a simulation, which has a single operator.
    """

    client: str
    memory: Memory
    identity: NodeIdentity | None = None
    journal: SumJournal | None = None

    def answer(self, task: MaskingTask) -> MaskedReply:
        """Do one stage.

        Raises:
            PeerError: the server asks for what would show a client's numbers, or at another stage.
        """
        if self.identity is None:
            raise PeerError("a masked sum is asked for, expected none: this client has no keys that others could check")
        identity, stage = self.identity, task.stage
        client = self._recall()
        answer: Answered
        match stage:
            case None:
                if self.journal:
                    self.journal.check_open(task.session)
                client, answer = client.offer(
                    task.session,
                    identity=identity.public_key,
                    sign=identity.sign,
                    certificate=identity.certificate,
                    endorsement=identity.endorsement,
                )
            case Roster():
                client, parcels = client.share(stage, identity.vouch)
                answer = Parcels(parcels)
            case Delivery():
                client, unreadable = client.deliver(task.session, stage.sharers, stage.parcels)
                answer = Ready(unreadable)
            case Opening():
                client, keys = client.show(task.session, stage.receivers)
                answer = Opened(keys)
            case Survivors():
                self._check_sum(client, stage.survivors)
                client, signature = client.sign(task.session, stage.survivors, identity.sign)
                answer = Signed(signature)
            case Unmasking():
                is_first = client.revealed is None
                if is_first:
                    self._check_sum(client, stage.survivors)
                client, shares = client.reveal(task.session, stage.survivors, stage.signatures)
                if is_first:
                    self._note_sum(client, stage.survivors)
                answer = Revealed(shares)
        self.memory.save(_KEY, client.to_bytes())
        return MaskedReply(self.client, answer)

    def _check_sum(self, client: MaskingClient, survivors: Sequence[int]) -> None:
        if self.journal and client.session and client.roster:
            names = _names(client.roster, survivors)
            self.journal.check_sum(client.session, client.received, names)

    def _note_sum(self, client: MaskingClient, survivors: Sequence[int]) -> None:
        if self.journal and client.session and client.roster:
            self.journal.note_sum(client.session, client.received, _names(client.roster, survivors))

    def roster_for(self, run_id: bytes, purpose: str, number: int) -> Roster:
        """The roster that an update or losses are masked for; before anything is trained.

        Raises:
            PeerError: no masked sum of this round is at that stage.
        """
        client = self._recall()
        session, roster = client.session, client.roster
        is_it = session is not None and (session.run_id, session.purpose, session.round) == (run_id, purpose, number)
        if not is_it or roster is None or not client.sharers or client.has_masked:
            raise PeerError(
                f"round {number} is asked for without a masked sum at that stage ({purpose}), expected keys and shares "
                "first: this run's server may learn sums alone"
            )
        return roster

    def noise_key(self, session: Session, numbers: bytes) -> bytes:
        """See `MaskingClient.noise_key`."""
        return self._recall().noise_key(session, numbers)

    def masked(
        self, session: Session, numbers: NDArray[np.integer], figures: NDArray[np.uint64], *, received: bytes
    ) -> MaskedReply:
        """Numbers and figures under this attempt's masks.

        Args:
            figures: modulo 2^64.

        Raises:
            PeerError: the attempt is over, or has them already.
        """
        client = self._recall()
        if client.roster is None:
            raise PeerError("the masked sum is over, expected the roster that the numbers were made for")
        ring = Ring(client.roster.bits)
        client, values, hidden = client.masked(session, ring.reduced(numbers), figures, received=received)
        self.memory.save(_KEY, client.to_bytes())
        return MaskedReply(self.client, MaskedUpdate(ring.pack(values), hidden.astype("<u8").tobytes()))

    def _recall(self) -> MaskingClient:
        data = self.memory.load(_KEY)
        if data is not None:
            return MaskingClient.from_bytes(data)
        # Of rounds that it was asked for before its journal was lost, it may have unmasked any.
        asked = Asked.recall(self.memory)
        newest = {purpose: asked.newest.get(task.__name__, -1) for purpose, task in _TASKS.items()}
        closed = {f"{asked.run_id} {purpose}": number for purpose, number in newest.items() if number >= 0}
        return MaskingClient(self.client, closed=closed)


def _names(roster: Roster, places: Sequence[int]) -> list[str]:
    roster.check_places(places, "survivors")
    return [roster.offers[place].client for place in places]

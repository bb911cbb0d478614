"""The exact sum of the updates of a region's clients, for the server above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plait.adapters.partial_sum import PartialSum
from plait.aggregation.exact_sum import ExactSum
from plait.errors import PeerError
from plait.privacy.clipped_sum import ClippedSum, part_of, rounding_key
from plait.privacy.mechanism import ClientPrivacy
from plait.rounds.clipped_sums import check_numbers, numbers_of
from plait.rounds.norm_bound import Norms
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.rounds.validate import open_update
from plait.wire.envelope import CLIENTS, Opened, read_envelope


@dataclass(frozen=True)
class Summed:
    """The sum of a round.

    Attributes:
        clients: in it.
        norms: of their updates.
        limits: the largest that a norm may be.
    """

    part: PartialSum
    clients: Sequence[str]
    norms: Sequence[Norms]
    limits: Norms


@dataclass(frozen=True, eq=False)
class RegionSum:
    """Adds up the updates of a region's spool.

    Attributes:
        clipping: of a run with differential privacy of clients, what updates are clipped to; None without.
    """

    spool: Spool
    clipping: ClientPrivacy | None = None

    def check(self, opened: Opened, number: int) -> None:
        """Refuse the sum of a region below to which no clipped updates add up.

        Raises:
            UpdateRefused: it is one.
        """
        if self.clipping:
            check_numbers(opened, self.spool, self.clipping, number)

    def of(self, state: RunState, number: int, stored: Mapping[str, Stored]) -> Summed:
        """The exact sum of the stored updates.

        Args:
            state: after the round before.
            number: of the round.
            stored: every stored update, by client.

        Raises:
            MachineError: a stored update is gone.
            PeerError: none of them counts.
        """
        spool = self.spool
        check = spool.counting(state, number, stored)
        if not check.accepted:
            raise PeerError(f"none of the updates of round {number} counts")
        norms = [stored[client].norms for client in check.accepted]
        if self.clipping:
            return Summed(
                self._clipped(self.clipping, state, number, check.accepted), check.accepted, norms, check.limits
            )
        weights, _ = spool.weights(check.accepted, stored)
        total = ExactSum(spool.ranks.master.geometry.layout.size)
        for contribution in spool.contributions(state, number, check, weights, stored, {}):
            if contribution.sum is not None:
                total.join(contribution.sum)
            else:
                total.add(contribution.delta.flat, contribution.weight)
        return Summed(total.part(), check.accepted, norms, check.limits)

    def _clipped(self, privacy: ClientPrivacy, state: RunState, number: int, accepted: Sequence[str]) -> PartialSum:
        """The sum of clipped updates, in whole numbers."""
        spool = self.spool
        sent = spool.sent(number)
        total, clients = ClippedSum(privacy, size=sum(part.stop - part.start for part in sent)), 0
        for client in accepted:
            update = spool.load(number, client)
            opened = open_update(update, spool.expected(state, number, client, 0))
            if opened.sum is not None:
                total.join(numbers_of(opened, spool, privacy, number))
                clients += int(opened.header.metrics[CLIENTS])
                continue
            digest = read_envelope(update, max_bytes=len(update)).payload_digest
            key = rounding_key(state.run_id, number, client, digest)
            total.add(np.concatenate([opened.delta.flat[part] for part in sent]), key=key)
            clients += 1
        numbers, summed, at = total.numbers(), np.zeros(spool.ranks.master.spec.layout.size, np.float64), 0
        for part in sent:
            summed[part] = numbers[at : at + part.stop - part.start]
            at += part.stop - part.start
        return part_of(summed, clients)

"""The sum of a region's clipped updates, in whole numbers; the server above adds the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plait.adapters.partial_sum import PartialSum
from plait.config import RunConfig
from plait.errors import ConfigError, PeerError
from plait.features.privacy.mechanism import ClientPrivacy
from plait.features.privacy.rounds import ClippedSum, check_numbers, numbers_of, part_of, rounding_key
from plait.features.privacy.run import privacy_of
from plait.features.trees.region_sum import Summed
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.rounds.validate import open_update
from plait.wire.envelope import CLIENTS, Opened, read_envelope


def clipped_adder(config: RunConfig, spool: Spool) -> ClippedAdder:
    """What adds up clipped updates, in a run with privacy of clients.

    Raises:
        ConfigError: it is without.
    """
    if (privacy := privacy_of(config)) is None:
        raise ConfigError("dp is 'off', expected 'client': no update is clipped")
    return ClippedAdder(spool, privacy)


@dataclass(frozen=True, eq=False)
class ClippedAdder:
    """Adds up the clipped updates of a region's spool."""

    spool: Spool
    privacy: ClientPrivacy
    tells_figures: bool = False

    def check(self, opened: Opened, number: int) -> None:
        """Refuse the sum of a region below to which no clipped updates add up.

        Raises:
            UpdateRefused: it is one.
        """
        check_numbers(opened, self.spool, self.privacy, number)

    def of(self, state: RunState, number: int, stored: Mapping[str, Stored]) -> Summed:
        """See `plait.features.trees.region_sum.Adding`."""
        check = self.spool.counting(state, number, stored)
        if not check.accepted:
            raise PeerError(f"none of the updates of round {number} counts")
        norms = [stored[client].norms for client in check.accepted]
        return Summed(self._clipped(state, number, check.accepted), check.accepted, norms, check.limits)

    def _clipped(self, state: RunState, number: int, accepted: Sequence[str]) -> PartialSum:
        """The sum of clipped updates, in whole numbers."""
        spool, privacy = self.spool, self.privacy
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

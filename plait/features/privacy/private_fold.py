"""The fold of a run with differential privacy of clients: only the noised mean reaches rule, optimizer and broadcast.

So all of them are post-processing. The noise is bound to the updates below it (see private_rounds.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from plait.adapters import AdapterState, Float32
from plait.aggregation import RoundContext
from plait.features.privacy.clipped_sums import check_numbers, numbers_of
from plait.features.privacy.mechanism import PrivateMean
from plait.features.privacy.private_rounds import PrivateRounds
from plait.rounds.fold import Folded, outcome_of_mean
from plait.rounds.reason import Reason
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.rounds.validate import UpdateRefused, open_update
from plait.wire.envelope import Opened, read_envelope


class PrivateFold:
    """The rule's outcome on the noised mean alone, which is all of the updates that it gets to see."""

    def __init__(self, spool: Spool, private: PrivateRounds) -> None:
        self._spool = spool
        self._private = private

    def check(self, opened: Opened, number: int) -> None:
        """Refuse the sum of a region to which no clipped updates add up.

        Raises:
            UpdateRefused: it is one.
        """
        check_numbers(opened, self._spool, self._private.privacy, number)

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """Whether the noise of a round is intended for just these updates; others would need, and pay for, another."""
        return self._private.is_intended(number, self._digest(state, number, accepted))

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """Clip the updates, add them up in whole numbers, and noise the sum.

        Raises:
            BudgetSpentError: the noise of the round would exceed the run's epsilon.
            MachineError: a stored update is gone.
        """
        spool, private, number = self._spool, self._private, context.round
        accepted = spool.counting(state, number, stored).accepted
        sent = spool.sent(number)
        size = sum(part.stop - part.start for part in sent)
        clip_norm = self._clip_norm(state, size)
        key = private.key_for(number, self._digest(state, number, accepted), clip_norm=clip_norm)
        mean = PrivateMean(private.privacy, size=size, clip_norm=clip_norm, key=key)
        folded: list[str] = []
        for client in accepted:
            expected = spool.expected(state, number, client, 0)
            opened = open_update(spool.load(number, client), expected)
            try:
                spool.check(opened, expected, 0)
                self.check(opened, number)
            except UpdateRefused as error:
                spool.refused(number, client, Reason.RULE, str(error))
                continue
            if opened.sum is not None:
                mean.join(numbers_of(opened, spool, private.privacy, number))
            else:
                mean.add(client, np.concatenate([opened.delta.flat[part] for part in sent]))
            folded.append(client)
        released = mean.finish()
        delta = scattered(released.mean, sent, context)
        outcome = outcome_of_mean(spool.rule, context, delta, "the noised mean")
        return Folded(outcome, folded, keep=lambda before: replace(before, clip_norm=released.clip_norm))

    def _digest(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bytes:
        """SHA-256 of everything that the sum of a round is made of."""
        privacy = self._private.privacy
        size = sum(part.stop - part.start for part in self._spool.sent(number))
        settings = (privacy.noise_multiplier, privacy.clients, self._clip_norm(state, size), size)
        digest = hashlib.sha256(repr((state.run_id.hex(), number, settings, len(accepted))).encode())
        digest.update(state.shadow.digest())
        for client in accepted:
            digest.update(hashlib.sha256(client.encode()).digest())
            # Of its numbers alone: what else an update says, such as times, does not matter to the sum.
            stored = self._spool.load(number, client)
            digest.update(read_envelope(stored, max_bytes=len(stored)).payload_digest)
        return digest.digest()

    def _clip_norm(self, state: RunState, size: int) -> float:
        return self._private.privacy.first_clip(size) if state.clip_norm is None else state.clip_norm


def scattered(values: Float32, sent: Sequence[slice], context: RoundContext) -> AdapterState:
    """An adapter of zeros but for the numbers that clients send."""
    flat: Float32 = np.zeros(context.geometry.layout.size, np.float32)
    at = 0
    for part in sent:
        flat[part] = values[at : at + part.stop - part.start]
        at += part.stop - part.start
    return AdapterState(context.geometry.layout, flat)

"""Which fold a run has: by what its settings have settled on."""

from __future__ import annotations

from functools import partial

from plait.rounds.buffer import Buffer
from plait.rounds.fold import Folding, PlainFold
from plait.rounds.masked_rounds import MaskedRounds
from plait.rounds.private_rounds import PrivateRounds


def folding(*, private: PrivateRounds | None, masked: MaskedRounds | None, buffer: Buffer | None) -> Folding:
    """The fold of a run.

    Args:
        private: of a run with differential privacy of clients.
        masked: of one with secure aggregation, whose clients add the noise, if there is any.
        buffer: of an asynchronous one.
    """
    if masked:
        from plait.rounds.masked_fold import MaskedFold

        return partial(MaskedFold, masked=masked)
    if private:
        from plait.rounds.private_fold import PrivateFold

        return partial(PrivateFold, private=private)
    if buffer:
        from plait.rounds.buffered_fold import BufferedFold

        return partial(BufferedFold, buffer=buffer)
    return PlainFold

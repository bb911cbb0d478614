"""Sums of clipped updates from regions, in a run with differential privacy of clients: whole numbers on its grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plait.adapters.partial_sum import PartialSum
from plait.errors import PeerError
from plait.features.privacy.clipped_sum import whole_numbers
from plait.features.privacy.mechanism import ClientPrivacy
from plait.rounds.reason import Reason
from plait.rounds.spool import Spool
from plait.rounds.validate import UpdateRefused
from plait.wire.envelope import CLIENTS, Opened


def numbers_of(opened: Opened, spool: Spool, privacy: ClientPrivacy, number: int) -> NDArray[np.int64]:
    """The sum of a region's clipped updates in a round, of the numbers that clients send.

    Raises:
        PeerError: no clipped updates add up to it.
    """
    part, sent = opened.sum, spool.sent(number)
    if part is None:
        raise PeerError("update is a client's own, expected the sum of a region")
    size = sum(each.stop - each.start for each in sent)
    cut = {place: np.concatenate([limb[each] for each in sent]) for place, limb in part.limbs.items()}
    clients = int(opened.header.metrics[CLIENTS])
    return whole_numbers(PartialSum(cut, part.weight), clients=clients, radius=privacy.grid(size).radius)


def check_numbers(opened: Opened, spool: Spool, privacy: ClientPrivacy, number: int) -> None:
    """Refuse the sum of a region to which no clipped updates add up.

    Raises:
        UpdateRefused: it is one.
    """
    if opened.sum is None:
        return
    try:
        numbers_of(opened, spool, privacy, number)
    except PeerError as error:
        raise UpdateRefused(Reason.NORM, str(error)) from error

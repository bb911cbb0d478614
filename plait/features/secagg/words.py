"""What a client's operator is told of a run's masked sums."""

from __future__ import annotations

from plait.features.secagg.coding import bits_for
from plait.features.secagg.limits import fewest
from plait.features.secagg.run import masked_of
from plait.proposed import Proposed, Words
from plait.settle import settle


def proposes(run: Proposed) -> Words:
    """What the server learns, and how many bits a parameter takes."""
    config = run.config
    if not vars(config).get("secure_aggregation", False):
        return Words()
    sums = (
        f"the run is masked (secure aggregation): the server learns sums over {fewest(config)} or more clients, and "
        f"no single client's updates or losses"
    )
    unhidden = "masks add no noise: they do not hide what the sum, and so the adapter, tells of a text"
    return Words(under_masks=True, seen=(sums, unhidden) if config.evaluates else (sums,), bits=_bits(run))


def _bits(run: Proposed) -> float:
    privacy, clients = masked_of(settle(run.config).config).privacy, run.config.cohort_size
    if privacy is None or run.parameters is None:
        return bits_for(clients)
    return privacy.shares(run.parameters).bits(clients, run.parameters)

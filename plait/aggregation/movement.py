"""Whether a client has moved a factor further than its training can have.

A product B A says nothing of its factors: (B / c)(c A) is the same model for any c, so an update can be honest in its
product and yet make the mean of the factors as large as it likes. Each factor must be bounded, not the product alone.
AdamW moves no element by much more than the learning rate in a step, whatever the gradient, so the root mean square of
a factor's change is at most about the sum of a round's learning rates. Knows no settings: the caller says the most.
"""

from __future__ import annotations

import math

import numpy as np

from plait.aggregation.contribution import Contribution
from plait.aggregation.geometry import Side
from plait.errors import PeerError


def check_movement(contribution: Contribution, *, most: float) -> None:
    """Refuse a delta with an outsized factor.

    Args:
        contribution: of one client, its values finite.
        most: the largest root mean square of a factor's change.

    Raises:
        PeerError: with the factor and its change.
    """
    flat = contribution.delta.flat
    for pair in contribution.geometry.pairs:
        for side in Side:
            slot = pair.slot(side)
            part = flat[slot.offset : slot.offset + slot.size]
            with np.errstate(over="ignore"):
                moved = math.sqrt(float(np.dot(part, part)) / slot.size)
            if not moved <= most:
                raise PeerError(
                    f"update of {contribution.client!r}: {side} of '{pair.module}' has moved by {moved:.3g} "
                    f"(root mean square), expected at most {most:.3g}"
                )

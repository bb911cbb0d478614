"""How the ledger states the correlation of a run's noise, both ways. Knows no key."""

from __future__ import annotations

from plait.errors import PeerError
from plait.privacy.correlation import Correlation
from plait.rounds.events import CorrelatedNoise, PrivacyStarted


def correlation_in(promised: PrivacyStarted) -> Correlation | None:
    """How the noise of a run is correlated; None where clients may join every round.

    Raises:
        PeerError: nothing follows from the coefficients.
    """
    told = promised.correlation
    if told is None:
        return None
    coefficients, separation = told.coefficients, told.separation
    if not 1 <= len(coefficients) <= separation or told.shift > 32 or coefficients[0] != 1 << told.shift:
        raise PeerError(
            f"the ledger has {len(coefficients)} coefficients of noise, expected 1 to {separation}, the first of them 1"
        )
    return Correlation(coefficients, told.shift, separation, told.rounds)


def stated(correlation: Correlation | None) -> CorrelatedNoise | None:
    """What the ledger says of a correlation."""
    return correlation and CorrelatedNoise(
        coefficients=correlation.coefficients,
        shift=correlation.shift,
        separation=correlation.separation,
        rounds=correlation.rounds,
        gain=correlation.gain,
    )
